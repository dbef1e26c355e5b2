"""The process's standard streams: they are there whatever the caller closed, and say what is wrong with them.

Nothing else is imported here, so that this can run before anything opens a file or a socket: the first one
opened would get the number of a stream that is closed, and what is printed would be written into it.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from typing import Any

MAX_PROMPT_BYTES = 64 << 20  # of standard input: an endless one must not take all memory


class StreamError(OSError):
    """A standard stream can't be used; the message is a sentence."""


def prepare_streams() -> None:
    """Opens /dev/null in place of each closed stream, and lets no failing write to standard error raise.

    A failing write to standard output raises StreamError (BrokenPipeError where the reader has gone), once:
    what is written later is dropped, so that the end of the process has nothing left to fail at.
    """
    for descriptor in range(3):
        _fill(descriptor)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "replace")
    elif isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what can't be decoded is no reason to end
    codecs.register_error("shown", _shown)
    sys.stdout = _checked(sys.stdout, 1, "standard output", "shown")
    sys.stderr = _checked(sys.stderr, 2, None, "backslashreplace")


def read_standard_input() -> str:
    """All of standard input, which is UTF-8 whatever the locale is. Raises StreamError."""
    try:
        content = _read_all(sys.stdin.fileno())
    except io.UnsupportedOperation:  # no file behind it
        return sys.stdin.read()
    except OSError as error:
        raise StreamError(f"standard input can't be read: {error.strerror}") from error
    if len(content) > MAX_PROMPT_BYTES:
        raise StreamError(f"standard input has more than {MAX_PROMPT_BYTES >> 20} MiB: that is no prompt")
    return content.decode("utf-8", "replace").replace("\r\n", "\n")


def _read_all(descriptor: int) -> bytes:
    content = bytearray()
    while len(content) <= MAX_PROMPT_BYTES:
        try:
            piece = os.read(descriptor, 1 << 16)
        except BlockingIOError:  # another process that has it made it so
            select.select([descriptor], [], [])
            continue
        if not piece:
            break
        content += piece
    return bytes(content)


def _shown(error: UnicodeError) -> tuple[str, int]:
    """Replaces what an encoding can't say: `?`, or \\xe9 for such a byte of a name that is no UTF-8."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    escaped = [f"\\x{ord(char) - 0xDC00:02x}" if 0xDC80 <= ord(char) < 0xDD00 else "?" for char in text]
    return "".join(escaped), error.end


def _fill(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        opened = _open_nothing()
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)  # as a stream's is


def _open_nothing() -> int:
    try:
        return os.open(os.devnull, os.O_RDWR)
    except FileNotFoundError:  # a container without /dev
        return os.memfd_create("nothing")


def _checked(stream: Any, descriptor: int, name: str | None, errors: str) -> Any:
    """The same stream over an _Output. One that a caller of main() put there stays as it is."""
    if stream is None:
        encoding, is_unbuffered, is_line_buffered = "utf-8", False, True
    elif type(stream) is not io.TextIOWrapper or stream.name not in ("<stdout>", "<stderr>"):
        return stream
    else:
        encoding, is_unbuffered = stream.encoding, stream.write_through  # PYTHONUNBUFFERED, python -u
        is_line_buffered = stream.line_buffering
    output = _Output(descriptor, name)
    buffer: Any = output if is_unbuffered else io.BufferedWriter(output)
    return io.TextIOWrapper(
        buffer, encoding, errors, line_buffering=is_line_buffered, write_through=is_unbuffered
    )


class _Output(io.RawIOBase):
    """Writes to a descriptor. name: for messages; a failing write to a stream without one is dropped."""

    def __init__(self, descriptor: int, name: str | None) -> None:
        self._descriptor, self._name = descriptor, name
        self._has_failed = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        if self._has_failed:
            return len(data)
        try:
            return self._write(data)
        except OSError as error:
            if self._name is None:
                return len(data)
            self._has_failed = True
            if isinstance(error, BrokenPipeError):
                raise
            raise StreamError(f"{self._name} can't be written: {error.strerror}") from error

    def _write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that has it made it so
                select.select([], [self._descriptor], [])
        return len(data)
