"""Messages that have come from ranks by direct lines and by ZeroMQ, in the order in which each sent them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import zmq

from tplaunch.coordinator.direct_line import BY_ZMQ, DirectLine
from tplaunch.coordinator.wire import Frame

Frames = Sequence[Frame]


class Incoming:
    """Holds messages that nobody has taken yet.

    A message by ZeroMQ counts once its rank's line says that it is its turn, where there is a line. A line
    that has said so before the message is there is not read meanwhile.
    """

    def __init__(self, lines: Mapping[int, DirectLine]) -> None:
        """lines: by rank."""
        self._lines = lines
        self._ranks = {line.fileno(): rank for rank, line in lines.items()}
        self._come: deque[tuple[int, Frames]] = deque()
        self._early: dict[int, deque[Frames]] = {rank: deque() for rank in lines}  # whose turn will come
        self._owed: dict[int, zmq.Poller] = {}  # ranks whose message by ZeroMQ has not come, and who waits

    def __bool__(self) -> bool:
        return bool(self._come)

    def take(self) -> tuple[int, Frames] | None:
        """The first message and its rank."""
        return self._come.popleft() if self._come else None

    def poll_lines(self, poller: zmq.Poller) -> None:
        """Has a poller wait for the lines, too."""
        for descriptor in self._ranks:
            poller.register(descriptor, zmq.POLLIN)

    def hear(self, descriptor: int, poller: zmq.Poller) -> bool:
        """Takes in what has come by a line that can be read.

        False for a descriptor of no line, and for a line whose rank is gone.
        """
        rank = self._ranks.get(descriptor)
        if rank is None:
            return False
        packet = self._lines[rank].receive_now()
        if packet == BY_ZMQ:
            if self._early[rank]:
                self._come.append((rank, self._early[rank].popleft()))
            else:
                self._owed[rank] = poller
                poller.unregister(descriptor)
        elif packet:
            self._come.append((rank, [packet]))
        return packet != b""

    def put(self, rank: int, frames: Frames) -> None:
        """Takes in a message that has come by ZeroMQ."""
        if rank in self._owed:
            self._owed.pop(rank).register(self._lines[rank].fileno(), zmq.POLLIN)
        elif rank in self._early:
            self._early[rank].append(frames)
            return
        self._come.append((rank, frames))
