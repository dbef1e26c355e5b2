"""Messages over a pipe: a mark, a length, and as many bytes of what wire.py makes of a dataclass.

Both ends of a job's standard input and output speak it. Knows bytes, and nothing of processes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from tplaunch.coordinator import wire
from tplaunch.coordinator.wire import WireError

MARK = b"\xf7tp1"  # begins no text, so that what a library prints is told from a message at once
HEADER = struct.Struct("<4sI")  # the mark, and the length of the rest in bytes
MAX_MESSAGE_BYTES = 1 << 24


def framed(message: Any) -> bytes:
    """Returns a dataclass as the bytes of a message. Raises ValueError where it is too long for one."""
    frames = wire.pack(type(message).__name__, message)
    if len(frames) != 1 or len(frames[0]) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{type(message).__name__} has more than a message's {MAX_MESSAGE_BYTES} bytes")
    return HEADER.pack(MARK, len(frames[0])) + frames[0]


class MessageReader:
    """Cuts the bytes of a pipe, as they come, into messages of known types."""

    def __init__(self, kinds: Iterable[type]) -> None:
        self._kinds = {kind.__name__: kind for kind in kinds}
        self._unread = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yields the messages that these bytes complete. Raises wire.WireError, after which all is lost."""
        self._unread += data
        while (message := self._next()) is not None:
            yield message

    def close(self) -> None:
        """Raises wire.WireError where the pipe has ended inside a message."""
        if self._unread:
            raise WireError(f"it ends inside a message, {len(self._unread)} bytes after its beginning")

    def _next(self) -> Any:
        """The next whole message, or None."""
        mark = bytes(self._unread[: len(MARK)])
        if mark != MARK[: len(mark)]:
            raise WireError(f"no message begins with {bytes(self._unread[:40])!r}")
        if len(self._unread) < HEADER.size:
            return None
        _, length = HEADER.unpack_from(self._unread)
        if length > MAX_MESSAGE_BYTES:
            raise WireError(f"a message of {length} bytes, where {MAX_MESSAGE_BYTES} are possible")
        end = HEADER.size + length
        if len(self._unread) < end:
            return None
        content = bytes(self._unread[HEADER.size : end])
        del self._unread[:end]
        return wire.unpack([content], self._kinds)
