"""The process that renders chat templates, seen from outside: what is asked of it, and how it may end.

Knows limits and answers; knows neither templates' language nor conversations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tplaunch.coordinator.child_process import ChildProcess, ended

SHORT_BYTES = 1 << 16  # of a conversation with all that belongs to it, as JSON
RENDERER = Path(__file__).resolve().with_name("renderer.py")


class ChatTemplateError(ValueError):
    """A conversation can't be rendered; the message says why in one sentence."""


@dataclass(frozen=True)
class RenderLimits:
    """The limits on rendering one conversation."""

    max_seconds: float = 10.0  # of computing time: a pause of the machine does not count
    max_bytes: int = 1 << 30  # of the process's memory
    max_characters: int = 1 << 24  # that a template may write

    def __post_init__(self) -> None:
        assert self.max_seconds > 0 and self.max_bytes > 0 and self.max_characters > 0


class RendererProcess:
    """A process that has some templates, by name; see ChildProcess for when it starts and ends.

    Long conversations, which may take seconds, have another one: short ones don't wait for them.
    """

    def __init__(self, sources: Mapping[str, str], limits: RenderLimits) -> None:
        self._limits = limits
        setup = {"sources": dict(sources), **asdict(limits)}
        self._process, self._process_of_long = ChildProcess(RENDERER, setup), ChildProcess(RENDERER, setup)

    def ask(self, request: Mapping[str, Any]) -> str:
        """Returns the text that the process answers with. Raises ChatTemplateError."""
        try:
            line = json.dumps(request).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise ChatTemplateError(f"the conversation can't be written as JSON: {error}") from None
        process = self._process if len(line) <= SHORT_BYTES else self._process_of_long
        answer = process.ask(line)
        if "text" in answer:
            text: str = answer["text"]
            return text
        raise ChatTemplateError(self._sentence(answer))

    def close(self) -> None:
        """Ends the processes, if there are any; the next request would start another."""
        self._process.close()
        self._process_of_long.close()

    def _sentence(self, answer: Mapping[str, Any]) -> str:
        limits, message = self._limits, answer.get("message")
        where = "" if answer.get("line") is None else f" in line {answer['line']}"
        sentences = {
            "time": f"the chat template takes more than {limits.max_seconds:g} s of computing time",
            "memory": f"the chat template takes more than {limits.max_bytes >> 20} MiB of memory",
            "length": f"the chat template writes more than {limits.max_characters} characters",
            "ended": f"the process that renders chat templates {ended(answer.get('code', 0))}",
            "syntax": f"the chat template can't be read{where}: {message}",
            "refused": f"the chat template refuses this conversation: {message}",
            "failed": f"the chat template fails{where}: {message}",
        }
        return sentences[answer["error"]]
