"""The process that renders chat templates, seen from outside: what is asked of it, and how it may end.

Knows limits and answers; knows neither templates' language nor conversations.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    """A process that has some templates, by name.

    The first request starts it, and so does one after its end. Any thread may ask. It ends with close(), with
    this object, and with this process.
    """

    def __init__(self, sources: Mapping[str, str], limits: RenderLimits) -> None:
        self._setup = {"sources": dict(sources), **asdict(limits)}
        self._limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: weakref.finalize[..., Any] | None = None

    def ask(self, request: Mapping[str, Any]) -> str:
        """Returns the text that the process answers with. Raises ChatTemplateError."""
        try:
            line = json.dumps(request).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise ChatTemplateError(f"the conversation can't be written as JSON: {error}") from None
        with self._lock:
            answer = self._exchange(line)
        if "text" in answer:
            text: str = answer["text"]
            return text
        raise ChatTemplateError(self._sentence(answer))

    def close(self) -> None:
        """Ends the process, if there is one; the next request would start another."""
        with self._lock:
            self._end()

    def _exchange(self, line: bytes) -> dict[str, Any]:
        if self._process is not None and self._process.poll() is not None:  # where memory ran out, perhaps
            self._end()
        try:
            if self._process is None:
                self._process = self._start()
            answer = self._send(self._process, line)
        except BaseException:  # Ctrl-C, too: an answer that is left would be taken for the next one
            self._end()
            raise
        if answer.get("error") in ("memory", "time", "ended"):
            self._end()
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        paths = [path for path in sys.path if path]
        program = (
            f"import sys, runpy; sys.path[:] = {paths!a}; runpy.run_path({str(RENDERER)!a}, None, '__main__')"
        )
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._ending = weakref.finalize(self, _end_process, process)
        self._send_only(process, json.dumps(self._setup).encode() + b"\n")
        return process

    @staticmethod
    def _send_only(process: subprocess.Popen[bytes], line: bytes) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: reading its answer will tell
            process.stdin.write(line)
            process.stdin.flush()

    def _send(self, process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any]:
        self._send_only(process, line)
        assert process.stdout is not None
        reply = process.stdout.readline()
        if reply.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(reply)
            return answer
        code = process.wait()
        return {"error": "time"} if code == -signal.SIGPROF else {"error": "ended", "code": code}

    def _end(self) -> None:
        if self._ending is not None:
            self._ending()
        self._process = self._ending = None

    def _sentence(self, answer: Mapping[str, Any]) -> str:
        limits, message = self._limits, answer.get("message")
        where = "" if answer.get("line") is None else f" in line {answer['line']}"
        sentences = {
            "time": f"the chat template takes more than {limits.max_seconds:g} s of computing time",
            "memory": f"the chat template takes more than {limits.max_bytes >> 20} MiB of memory",
            "length": f"the chat template writes more than {limits.max_characters} characters",
            "ended": f"the process that renders chat templates ended with code {answer.get('code')}",
            "syntax": f"the chat template can't be read{where}: {message}",
            "refused": f"the chat template refuses this conversation: {message}",
            "failed": f"the chat template fails{where}: {message}",
        }
        return sentences[answer["error"]]


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):  # what was left in its buffer
            stream.close()
    process.wait()
