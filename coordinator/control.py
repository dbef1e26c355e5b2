"""The coordinator's socket: a ROUTER that the workers dial in to. Every wait has a deadline and a watcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TypeVar

import zmq

from tplaunch.coordinator.messages import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    Failed,
    Hello,
    Message,
    decode,
    encode,
    identity,
    receive_frames,
)
from tplaunch.coordinator.wire import Frame, WireError

POLL_MILLISECONDS = 50  # how soon a worker's death is seen
BLAME_SECONDS = 0.5  # for a rank that another one blames, or that has ended, to be heard
M = TypeVar("M")


class WorkerError(RuntimeError):
    """A rank failed, or did not answer in time. `rank` is the one to blame."""

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(message)
        self.rank = rank


class WorkerChannel:
    """Messages to and from the workers of one run.

    `watch` is called at least every 50 ms while waiting; it raises where a worker's process has ended,
    except for the ranks it is given: those that have said themselves that they failed.
    """

    def __init__(self, endpoint: str, num_ranks: int, watch: Callable[[Collection[int]], None]) -> None:
        self.num_ranks = num_ranks
        self._watch = watch
        self._failures: dict[int, Failed] = {}
        self._ranks = {identity(rank): rank for rank in range(num_ranks)}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 500)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.RCVTIMEO, POLL_MILLISECONDS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._socket.bind(endpoint)

    def broadcast(self, message: Message) -> None:
        frames = encode(message)
        for name, rank in self._ranks.items():
            self._send(name, rank, frames)

    def send(self, rank: int, message: Message) -> None:
        self._send(identity(rank), rank, encode(message))

    def _send(self, name: bytes, rank: int, frames: list[Frame]) -> None:
        try:
            self._socket.send_multipart((name, *frames))
        except zmq.ZMQError as error:
            self._watch(self._failures)
            raise WorkerError(rank, f"rank {rank} can't be reached: {error}") from error

    def receive(self, deadline: float) -> tuple[int, Message] | None:
        """The next message and its rank; None when time.monotonic() passes the deadline.

        Raises WorkerError when a worker says that it failed. Strangers are not heard.
        """
        while (received := self._next(deadline)) is not None:
            rank, message = received
            if isinstance(message, Failed):
                raise self._root_cause(rank, message)
            return rank, message
        return None

    def _next(self, deadline: float) -> tuple[int, Message] | None:
        while time.monotonic() < deadline:
            try:
                name, *frames = receive_frames(self._socket, num_names=1)
            except zmq.Again:
                self._look_after_workers()
                continue
            rank = self._ranks.get(name.bytes)
            if rank is None or not frames:
                continue
            try:
                return rank, decode([frame.buffer for frame in frames])
            except WireError as error:
                raise WorkerError(rank, f"rank {rank} sent {error}") from error
        return None

    def _look_after_workers(self) -> None:
        try:
            self._watch(self._failures)
        except WorkerError:
            if not self._socket.poll(int(BLAME_SECONDS * 1000)):  # its last words may still be on their way
                raise

    def _root_cause(self, rank: int, failed: Failed) -> WorkerError:
        """Follows the blame: a rank that was told to give up is often heard before the one that told it."""
        failures = self._failures
        failures[rank] = failed
        deadline = time.monotonic() + BLAME_SECONDS
        while (culprit := failures[rank].culprit) is not None and culprit != rank:
            while culprit not in failures and (received := self._next(deadline)) is not None:
                if isinstance(received[1], Failed):
                    failures[received[0]] = received[1]
            if culprit not in failures:
                return WorkerError(culprit, f"rank {rank} failed: {failures[rank].error}")
            rank = culprit
        return WorkerError(rank, f"rank {rank} failed: {failures[rank].error}")

    def collect(self, kind: type[M], what: str, timeout_seconds: float) -> list[M]:
        """One message of a kind from every rank, in rank order."""
        deadline = time.monotonic() + timeout_seconds
        found: dict[int, M] = {}
        while len(found) < self.num_ranks:
            received = self.receive(deadline)
            if received is None:
                missing = min(set(range(self.num_ranks)) - set(found))
                raise WorkerError(missing, f"rank {missing} did not {what} within {timeout_seconds:.0f} s")
            rank, message = received
            if not isinstance(message, kind) or rank in found:
                raise WorkerError(rank, f"rank {rank} sent {type(message).__name__} where it should {what}")
            found[rank] = message
        return [found[rank] for rank in range(self.num_ranks)]

    def greet(self, timeout_seconds: float) -> None:
        """Waits for every rank's Hello and checks it."""
        for rank, hello in enumerate(self.collect(Hello, "start", timeout_seconds)):
            if hello.version != PROTOCOL_VERSION or hello.rank != rank:
                raise WorkerError(
                    rank,
                    f"rank {rank} says it is rank {hello.rank} with protocol {hello.version};"
                    f" expected rank {rank} with protocol {PROTOCOL_VERSION}",
                )

    def close(self) -> None:
        self._socket.close()
        self._context.term()
