"""A process that does for this one what might not end, or end it: a program that answers lines of JSON.

Knows how it may end; knows nothing of what it is asked.
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
from pathlib import Path
from typing import Any


class ChildProcess:
    """A process with a program of its own.

    The program reads a line of JSON, its setup, and answers each line behind it with one. The first request
    starts it, and so does one after its end. Any thread may ask. It ends with close(), with this object, and
    with this process.
    """

    def __init__(self, program: Path, setup: Mapping[str, Any]) -> None:
        self._path, self._setup = program, dict(setup)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: weakref.finalize[..., Any] | None = None

    def ask(self, line: bytes) -> dict[str, Any]:
        """Returns the answer to one line of JSON.

        {"error": "time"} where SIGPROF has ended the process, {"error": "ended", "code": its exit code} where
        something else has. A process that answers with the error memory is ended, too.
        """
        with self._lock:
            return self._exchange(line)

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
            "import sys, runpy; "
            f"sys.path[:] = {paths!a}; runpy.run_path({str(self._path)!a}, None, '__main__')"
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


def ended(code: int) -> str:
    """Says how a process has ended, behind its name."""
    if code >= 0:
        return f"ended with code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"was killed by {known.get(-code, f'signal {-code}')}"


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):  # what was left in its buffer
            stream.close()
    process.wait()
