"""The program of the process that renders chat templates; coordinator/text/chat/process.py starts it.

A template comes from a model file and is not trusted. Here it may loop, recurse or multiply as it likes: the
kernel ends this process after its share of computing time, and gives it no more than its share of memory.
Reads JSON, a line each: first what to render with, then requests; answers each with a line. Imports nothing
of tplaunch, so that it starts within a tenth of a second.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any

import jinja2
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_ERROR_CHARACTERS = 300


class TooLongError(ValueError):
    """A template has written more than it may."""


class GenerationBlock(Extension):
    """{% generation %} ... {% endgeneration %}: marks what a model is trained to write; rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> Node:
        """Reads the block up to its end tag."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    @staticmethod
    def _unchanged(caller: Callable[[], str]) -> str:
        return caller()


def make_environment() -> ImmutableSandboxedEnvironment:
    """Returns the environment in which transformers renders templates, but for the clock."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja2's own it escapes nothing for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


class Renderer:
    """Compiles each template once, when it is first asked for."""

    def __init__(self, sources: dict[str, str], max_characters: int) -> None:
        self._environment = make_environment()
        self._sources = sources
        self._max_characters = max_characters
        self._templates: dict[str, jinja2.Template] = {}

    def template(self, name: str) -> jinja2.Template:
        """Returns the compiled template."""
        if name not in self._templates:
            self._templates[name] = self._environment.from_string(self._sources[name])
        return self._templates[name]

    def render(self, name: str, variables: dict[str, Any], now: datetime) -> str:
        """Returns what the template writes. Raises TooLongError, and whatever the template raises."""
        template = self.template(name)
        pieces: list[str] = []
        rest = self._max_characters
        for piece in template.generate({"strftime_now": now.strftime, **variables}):
            rest -= len(piece)
            if rest < 0:
                raise TooLongError
            pieces.append(piece)
        return "".join(pieces)


def answer(renderer: Renderer, request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to one request: {"text": ...}, or {"error": kind, "message": ..., "line": ...}."""
    try:
        if "variables" not in request:
            renderer.template(request["template"])
            return {"text": ""}
        now = datetime.fromisoformat(request["now"])
        return {"text": renderer.render(request["template"], request["variables"], now)}
    except TooLongError:
        return {"error": "length"}
    except MemoryError:
        return {"error": "memory"}
    except jinja2.TemplateSyntaxError as error:
        return _failure("syntax", error.message or "", error.lineno)
    except TemplateError as error:
        if type(error) is TemplateError:  # what raise_exception raises
            return _failure("refused", str(error), None)
        return _failure("failed", f"{type(error).__name__}: {error}", _line_of(error.__traceback__))
    except Exception as error:
        return _failure("failed", f"{type(error).__name__}: {error}", _line_of(error.__traceback__))


def _failure(kind: str, message: str, line: int | None) -> dict[str, Any]:
    return {"error": kind, "message": " ".join(message[:MAX_ERROR_CHARACTERS].split()), "line": line}


def _line_of(traceback: TracebackType | None) -> int | None:
    """Returns the template's line that failed, the innermost one."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _limit(max_bytes: int) -> None:
    """Allows no more memory than this from here on, and lets SIGPROF end the process for certain."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > max_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))


def main() -> None:
    """Answers requests until standard input ends."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):  # a terminal's keys reach the launcher, too
        signal.signal(number, signal.SIG_IGN)
    setup = json.loads(sys.stdin.buffer.readline())
    renderer = Renderer(setup["sources"], setup["max_characters"])
    _limit(setup["max_bytes"])
    while line := sys.stdin.buffer.readline():
        signal.setitimer(signal.ITIMER_PROF, setup["max_seconds"])
        try:
            reply = json.dumps(answer(renderer, json.loads(line)))
        except MemoryError:
            reply = '{"error": "memory"}'
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
