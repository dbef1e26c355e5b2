"""A process that goes on beside a test, all of whose output is kept, and can be waited for."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from tests.drivers import REPOSITORY
from tplaunch.running_clock import LOOK_SECONDS, RunningClock


class Output:
    """The text of one stream so far; a thread reads it, so that the process never waits for a reader."""

    def __init__(self, stream: IO[str]) -> None:
        self.text = ""
        self._stream = stream
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            while part := os.read(self._stream.fileno(), 1 << 16):
                with self._changed:
                    self.text += part.decode(errors="replace")
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern: str, timeout: float) -> re.Match[str]:
        """Returns the first match. AssertionError where none came within `timeout` seconds, or at all.

        Of all these seconds only those count in which this process ran.
        """
        clock = RunningClock()
        with self._changed:
            while (found := re.search(pattern, self.text)) is None:
                assert not self._ended, f"it ended without {pattern!r}:\n{self.text}"
                assert clock() < timeout, f"no {pattern!r} within {timeout} s:\n{self.text}"
                self._changed.wait(LOOK_SECONDS)
        return found

    def wait_for_growth(self, num_characters: int, timeout: float) -> None:
        """Returns when there are so many more characters than now. AssertionError otherwise."""
        self.wait_for(rf"(?s)\A.{{{len(self.text) + num_characters}}}", timeout)

    def all(self) -> str:
        """Returns everything, or what has come so far where children hold the stream open."""
        self._thread.join(3)
        return self.text


class Running:
    """A process in a session, and so a process group, of its own. Its standard input is open and empty."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self.stdout, self.stderr = Output(self.process.stdout), Output(self.process.stderr)
        # Their threads read and close them: Popen shall not.
        self.process.stdout = self.process.stderr = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        """The text of both streams so far."""
        return self.stdout.text + self.stderr.text

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Returns the exit code. AssertionError where it takes more seconds, counted as for output."""
        clock, code = RunningClock(), None
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = self.process.wait(LOOK_SECONDS)
            assert code is not None or clock() < timeout, f"still running after {timeout} s:\n{self.text}"
        self.stdout.all(), self.stderr.all()
        return code

    def end(self, patience: float = 20.0) -> None:
        """Asks it to end, kills its process group where that does not help, and waits for it."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
