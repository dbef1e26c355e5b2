"""Answers of ranks that work on different steps: an early stage is at the next one before a late one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TypeVar

from tplaunch.coordinator.messages import Message, Rows, StepDone
from tplaunch.coordinator.serving.channel import Channel, WorkerError

M = TypeVar("M", StepDone, Rows)


class Inbox:
    """Keeps what comes before it is waited for. A rank answers in the order in which it was asked."""

    def __init__(self, channel: Channel, most_early: int) -> None:
        """most_early: answers of a rank that may come before they are waited for."""
        self._channel, self._most_early = channel, most_early
        self._early: list[deque[Message]] = [deque() for _ in range(channel.num_ranks)]

    def collect(self, kind: type[M], what: str, timeout_seconds: float, ranks: Sequence[int]) -> list[M]:
        """Returns the next answer of a kind from each of these ranks. `what` says what a rank was to do.

        Raises WorkerError for one that does not come in time, and for what is no answer.
        """
        deadline = self._channel.clock() + timeout_seconds
        found: dict[int, M] = {}
        for rank in ranks:
            early = next((message for message in self._early[rank] if isinstance(message, kind)), None)
            if early is not None:
                self._early[rank].remove(early)
                found[rank] = early
        while len(found) < len(ranks):
            received = self._channel.receive(deadline)
            if received is None:
                missing = min(set(ranks) - found.keys())
                raise WorkerError(missing, f"rank {missing} did not {what} within {timeout_seconds:.0f} s")
            rank, message = received
            if isinstance(message, kind) and rank in ranks and rank not in found:
                found[rank] = message
            else:
                self._keep(rank, message, what)
        return [found[rank] for rank in ranks]

    def _keep(self, rank: int, message: Message, what: str) -> None:
        if not isinstance(message, StepDone | Rows) or len(self._early[rank]) >= self._most_early:
            raise WorkerError(rank, f"rank {rank} sent {type(message).__name__} where it should {what}")
        self._early[rank].append(message)
