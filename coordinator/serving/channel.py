"""The connection to the ranks, as the driving side sees it; control.py has the real one."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TypeVar

from tplaunch.coordinator.messages import PROTOCOL_VERSION, Hello, Message

M = TypeVar("M")


class WorkerError(RuntimeError):
    """A rank failed, or did not answer in time. `rank` is the one to blame.

    lasts: it would fail again where it is started again.
    """

    def __init__(self, rank: int, message: str, *, lasts: bool = False) -> None:
        super().__init__(message)
        self.rank, self.lasts = rank, lasts


class Channel(abc.ABC):
    """Messages to and from the ranks of one run. Deadlines are times of `clock`."""

    num_ranks: int
    clock: Callable[[], float]

    @abc.abstractmethod
    def send(self, rank: int, message: Message) -> None:
        """Raises WorkerError where the rank can't be reached."""

    @abc.abstractmethod
    def broadcast(self, message: Message) -> None:
        """Sends to all ranks. Raises WorkerError where one can't be reached."""

    @abc.abstractmethod
    def receive(self, deadline: float) -> tuple[int, Message] | None:
        """The next message and its rank; None when `clock` passes the deadline.

        Raises WorkerError when a rank says that it failed, or has ended.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Gives everything back."""

    def collect(self, kind: type[M], what: str, timeout_seconds: float) -> list[M]:
        """One message of a kind from every rank, in rank order. `what` says what a rank was to do."""
        deadline = self.clock() + timeout_seconds
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
