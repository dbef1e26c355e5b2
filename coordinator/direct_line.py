"""A direct way between the coordinator and a worker of its host: two connected sockets, no thread between.

A message by ZeroMQ passes a thread on either side, and each has to be woken; here the kernel wakes the one
that waits. A small message is one packet. A large one goes by ZeroMQ, where nobody waits until it is read; a
packet of one byte keeps its place among the others.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from types import TracebackType

from tplaunch.coordinator.wire import Frame

MAX_BYTES = 16384  # of a packet; the kernel has room for a dozen that nobody has read yet
BY_ZMQ = b"\0"  # no message is as short


def takes(frames: Sequence[Frame]) -> bool:
    """Tells whether a message is small enough for a line."""
    return len(frames) == 1 and len(frames[0]) <= MAX_BYTES


class DirectLine:
    """One end of a line."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def inherited(cls, descriptor: int) -> DirectLine:
        """Returns the end that this process was given."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, packet: Frame) -> None:
        """Raises OSError where the other end is gone, or has not read for long."""
        self._socket.send(packet, socket.MSG_DONTWAIT)

    def receive(self) -> bytes:
        """Waits for the next packet, as long as it takes; nothing where the other end is gone."""
        return self._received(0)

    def receive_now(self) -> bytes | None:
        """The next packet, None where there is none yet; nothing where the other end is gone."""
        try:
            return self._received(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _received(self, flags: int) -> bytes:
        try:
            return self._socket.recv(MAX_BYTES, flags)
        except (
            ConnectionResetError
        ):  # the other process ended with packets unread: told once, before its last
            return self._socket.recv(MAX_BYTES, flags)

    def close(self) -> None:
        self._socket.close()


class LinePairs:
    """Both ends of the lines to some ranks, until each process has its own. Use it as a context."""

    def __init__(self, ranks: Iterable[int]) -> None:
        self.near: dict[int, DirectLine] = {}  # the coordinator's, by rank
        self.far: dict[int, DirectLine] = {}  # the workers'
        for rank in ranks:
            ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.near[rank], self.far[rank] = map(DirectLine, ends)

    def __enter__(self) -> LinePairs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for line in (*self.near.values(), *self.far.values()):
            line.close()
