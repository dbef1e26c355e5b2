"""The coordinator's sockets: a ROUTER that workers dial in to, and one more for those of other hosts.

Workers of this host have a direct line as well, for all that is small. Every wait has a deadline and a
watcher.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import zmq

from tplaunch.coordinator.curve import CURVE_BYTES, Gate, Socket, serve_with
from tplaunch.coordinator.direct_line import BY_ZMQ, DirectLine, takes
from tplaunch.coordinator.encoding import (
    MAX_FRAME_BYTES,
    decode,
    encode,
    identity,
    receive_frames,
    send_frames,
)
from tplaunch.coordinator.messages import Failed, Message, Step
from tplaunch.coordinator.next_step import Shortener
from tplaunch.coordinator.serving.channel import Channel, WorkerError
from tplaunch.coordinator.serving.incoming import Incoming
from tplaunch.coordinator.wire import Frame, WireError
from tplaunch.running_clock import LOOK_SECONDS, RunningClock

BLAME_SECONDS = 0.5  # for a rank that another one blames, or that has ended, to be heard


class Watcher(Protocol):
    """Knows the workers' processes."""

    def watch(self, excused: Collection[int]) -> None:
        """Raises WorkerError where a process has ended, except for the excused ranks."""

    def descriptors(self) -> Iterable[int]:
        """One for each process, readable once it has ended; none where the kernel offers none."""


@dataclass(frozen=True)
class RemoteDoor:
    """The way in for workers of other hosts, over TCP, who prove that they know the run's secret."""

    host: str  # this host's address, to listen on; an IPv6 one in brackets
    ranks: tuple[int, ...]
    secret: bytes


class WorkerChannel(Channel):
    """Messages to and from the workers of one run.

    While it waits it also waits for the workers' processes to end. A rank that ended without having said
    why has BLAME_SECONDS in which its last words may still come; messages of the others don't hold that up.

    Deadlines are times of `clock`, in which only time counts that this process has run.
    """

    def __init__(
        self,
        endpoint: str,
        num_ranks: int,
        watcher: Watcher,
        remote: RemoteDoor | None = None,
        lines: Mapping[int, DirectLine] | None = None,
    ) -> None:
        """endpoint: where ranks of this host dial in. remote: where those of others do, if there are any.

        lines: to ranks of this host, which have the other ends; by rank.
        """
        self.num_ranks = num_ranks
        self.clock = RunningClock()
        self._watcher = watcher
        self._failures: dict[int, Failed] = {}
        self._ended: WorkerError | None = None  # a worker's process has, and has not said why
        self._ended_until = 0.0  # how long its words are waited for
        self._next_look = -math.inf  # at the processes
        self._poller: zmq.Poller | None = None
        self._lines = dict(lines or {})
        # A line's other end may take this core at once, and the way to other hosts is the longer one.
        self._farthest_first = sorted(range(num_ranks), key=lambda rank: rank in self._lines)
        self._incoming = Incoming(self._lines)
        self._shortener = Shortener()
        self._context = zmq.Context()
        self._doors: dict[Socket, dict[bytes, int]] = {}  # the ranks that dial in to each socket, by name
        self.port = 0  # of the door for ranks of other hosts
        far = () if remote is None else remote.ranks
        self._open(endpoint, [rank for rank in range(num_ranks) if rank not in far])
        if remote is not None:
            Gate(self._context, remote.secret, [identity(rank).decode() for rank in far])
            socket = self._open(f"tcp://{remote.host}:*", far, remote.secret)
            self.port = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._sockets = {rank: socket for socket, ranks in self._doors.items() for rank in ranks.values()}

    def _open(self, endpoint: str, ranks: Iterable[int], secret: bytes | None = None) -> Socket:
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 500)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        if secret is not None:
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + CURVE_BYTES)
            socket.setsockopt(zmq.IPV6, "[" in endpoint)
            serve_with(socket, secret)
        socket.bind(endpoint)
        self._doors[socket] = {identity(rank): rank for rank in ranks}
        return socket

    def broadcast(self, message: Message) -> None:
        step = message if isinstance(message, Step) else None
        frames = encode(message if step is None else self._shortener.shortened(step))
        for rank in self._farthest_first:
            self._send(rank, frames)
        if step is not None:
            self._shortener.note(step)

    def send(self, rank: int, message: Message) -> None:
        self._send(rank, encode(message))

    def _send(self, rank: int, frames: list[Frame]) -> None:
        line = self._lines.get(rank)
        try:
            if line is not None and takes(frames):
                line.send(frames[0])
                return
            send_frames(self._sockets[rank], (identity(rank), *frames))
            if line is not None:
                line.send(BY_ZMQ)
        except (zmq.ZMQError, OSError) as error:
            deadline = self.clock() + BLAME_SECONDS
            while self.receive(deadline) is not None:
                pass  # its last words are waited for, and come as an error
            raise self._ended or WorkerError(rank, f"rank {rank} can't be reached: {error}") from error

    def receive(self, deadline: float) -> tuple[int, Message] | None:
        """The next message and its rank; None when `clock` passes the deadline.

        Raises WorkerError when a worker says that it failed, or has ended. Strangers are not heard.
        """
        received = self._next(deadline)
        if received is not None and isinstance(received[1], Failed):
            raise self._root_cause(received[0], received[1])
        return received

    def _next(self, deadline: float) -> tuple[int, Message] | None:
        while True:
            now = self.clock()
            if now >= self._next_look:
                self._look_after_workers(now)
            self._wait(min(LOOK_SECONDS, max(0.0, deadline - now)))
            if (received := self._take()) is not None:
                return received
            if now >= deadline:  # and the sockets have been looked at since
                return None

    def _take(self) -> tuple[int, Message] | None:
        """A message that has come, if one has."""
        found = self._incoming.take()
        if found is None:
            return None
        rank, frames = found
        try:
            return rank, decode(frames)
        except WireError as error:
            raise WorkerError(rank, f"rank {rank} sent {error}") from error

    def _wait(self, seconds: float) -> None:
        """Waits until there is a message, or a process has ended; not where one has come already."""
        if self._incoming:
            return
        if self._poller is None:
            self._poller = zmq.Poller()
            for source in (*self._doors, *self._watcher.descriptors()):
                self._poller.register(source, zmq.POLLIN)
            self._incoming.poll_lines(self._poller)
        for ready, _ in self._poller.poll(math.ceil(seconds * 1000)):
            if ready in self._doors:
                self._hear(ready)
            elif not self._incoming.hear(ready, self._poller):
                self._next_look = -math.inf
                self._poller.unregister(ready)  # it would stay readable for ever

    def _hear(self, door: Socket) -> None:
        """Takes in what ranks have sent by a door; strangers are not heard."""
        while True:
            try:
                name, *frames = receive_frames(door, num_names=1, flags=zmq.NOBLOCK)
            except zmq.Again:
                return
            rank = self._doors[door].get(name.bytes)
            if rank is not None and frames:
                self._incoming.put(rank, [frame.buffer for frame in frames])

    def _look_after_workers(self, now: float) -> None:
        self._next_look = now + LOOK_SECONDS
        if self._ended is None:
            try:
                self._watcher.watch(self._failures)
            except WorkerError as error:
                self._ended, self._ended_until = error, now + BLAME_SECONDS
        elif now >= self._ended_until and self._ended.rank not in self._failures:
            raise self._ended

    def _root_cause(self, rank: int, failed: Failed) -> WorkerError:
        """Follows the blame: a rank that was told to give up is often heard before the one that told it.

        Blame may go round in a circle: ranks that can't reach each other each name another one.
        """
        failures, chain = self._failures, [rank]
        failures[rank] = failed
        deadline = self.clock() + BLAME_SECONDS
        while (culprit := failures[chain[-1]].culprit) is not None and culprit not in chain:
            if culprit not in self._sockets:
                break
            while culprit not in failures and (received := self._next(deadline)) is not None:
                if isinstance(received[1], Failed):
                    failures[received[0]] = received[1]
            if culprit not in failures:
                if self._ended is not None and self._ended.rank == culprit:
                    return self._ended
                return WorkerError(culprit, _sentence(chain[-1], failures))
            chain.append(culprit)
        if culprit not in chain[:-1]:
            return WorkerError(chain[-1], _sentence(chain[-1], failures))
        *others, last = circle = sorted(chain[chain.index(culprit) :])
        names = f"{', '.join(map(str, others))} and {last}"
        sentence = f"ranks {names} blame each other: {_sentence(circle[0], failures)}"
        return WorkerError(circle[0], sentence)

    def close(self) -> None:
        for socket in self._doors:
            socket.close()
        self._context.term()


def _sentence(rank: int, failures: Mapping[int, Failed]) -> str:
    return f"rank {rank} failed: {failures[rank].error}"
