"""A run of the command line at a terminal, which the test holds the other end of."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
from pathlib import Path

from tests.command_line import CommandLine
from tests.patience import PATIENCE

OPTIONS = ("--devices", "numpy,numpy", "-n", "8", "--temperature", "0")


class Terminal:
    """A run at a terminal of its own; its standard output may be a file instead."""

    def __init__(
        self,
        tplaunch: CommandLine,
        model: Path,
        *options: str,
        output: Path | None = None,
        columns: int = 0,  # 0 where it does not know
    ) -> None:
        self.screen = ""
        self._end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 0, columns, 0, 0))
        with contextlib.ExitStack() as stack:
            stdout = other if output is None else stack.enter_context(output.open("wb"))
            self.process = subprocess.Popen(
                ["setsid", "--ctty", *tplaunch.program, *OPTIONS, *options, str(model)],
                env={**tplaunch.environment, "TERM": "dumb"},
                stdin=other,
                stdout=stdout,
                stderr=other,
                text=True,
            )
        os.close(other)

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def read_until(self, text: str, count: int = 1) -> None:
        """Reads the screen until the text stands there so often."""
        while self.screen.count(text) < count:
            self.read_more()

    def read_more(self) -> None:
        assert select.select([self._end], (), (), PATIENCE)[0], self.screen
        try:
            self.screen += os.read(self._end, 4096).decode(errors="replace").replace("\r\n", "\n")
        except OSError as error:  # EIO: nobody is there any more
            raise AssertionError(self.screen) from error

    def read_if_any(self) -> None:
        if select.select([self._end], (), (), 0)[0]:
            with contextlib.suppress(AssertionError):
                self.read_more()

    def read_to_end(self) -> None:
        with contextlib.suppress(AssertionError):
            self.read_until("\0")
        self.process.wait(30)

    def lines_are_edited(self) -> bool:
        """Returns true if somebody reads keys one by one, as readline does."""
        return not termios.tcgetattr(self._end)[3] & termios.ICANON

    def hang_up(self) -> None:
        """As a window that is closed: the kernel sends SIGHUP to those who run in it."""
        os.close(self._end)
        self._end = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        if self._end >= 0:
            os.close(self._end)
