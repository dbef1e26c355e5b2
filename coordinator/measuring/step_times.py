"""Adds up what the answers of steps tell of their time: the ranks' ledgers, all-reduces, and the trace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tplaunch.coordinator.measuring.reduce_times import ReduceClock, ReduceTimes
from tplaunch.coordinator.measuring.trace import Trace
from tplaunch.coordinator.messages import Step, StepDone

HANDOVER = "handover"  # kind of time: of a step between stages
Totals = list[dict[str, float]]  # microseconds by kind, of each rank


@dataclass(frozen=True)
class GroupReduces:
    """The all-reduces of the ranks of one stage, which are neighbours."""

    first: int  # rank
    stop: int  # behind the last
    without_logits: int  # all-reduces of a step
    with_logits: int


class Taken(NamedTuple):
    """The times of some steps."""

    totals: Totals  # by rank
    num_steps: int
    reduce_times: ReduceTimes | None
    sent_per_token: tuple[float, ...]  # bytes in messages for each row of a step, by rank


class StepTimes:
    """The times of steps since they were taken last; `note` is called for each, `add_up` when time allows."""

    def __init__(self, num_ranks: int, trace: Trace | None) -> None:
        self.trace = trace
        self._totals: Totals = [{} for _ in range(num_ranks)]
        self._spent: Totals = []  # of the last step, not yet in the totals
        self._num_steps = 0  # that the totals cover
        self._reduce_clock = ReduceClock()
        self._num_tokens, self._sent_bytes = 0, [0] * num_ranks

    def note(
        self,
        step: Step,
        begin: float,
        answers: Sequence[StepDone],
        groups: Sequence[GroupReduces],
        row_bytes: int,
    ) -> None:
        """Takes a step that began then, and has ended now. row_bytes: of what an all-reduce adds up."""
        if self.trace is not None:
            self.trace.add(step, begin, time.perf_counter(), answers)
        for group in groups:
            count = group.with_logits if step.logit_rows.size else group.without_logits
            self._reduce_clock.add(answers[group.first : group.stop], count, step.token_ids.size * row_bytes)
        self._num_tokens += step.token_ids.size
        self._sent_bytes = [
            sent + done.sent_bytes for sent, done in zip(self._sent_bytes, answers, strict=True)
        ]
        self.add_up()
        self._spent = [done.ledger for done in answers]

    def add_up(self) -> None:
        """Takes the last step into the totals."""
        self._num_steps += bool(self._spent)
        for totals, spent in zip(self._totals, self._spent, strict=False):
            for kind, microseconds in spent.items():
                totals[kind] = totals.get(kind, 0.0) + microseconds
        self._spent = []

    def spent(self) -> Totals:
        """Returns each rank's totals, of steps before the last one. Any thread may call this."""
        return [totals.copy() for totals in self._totals]

    def take(self) -> Taken:
        """Returns what steps took, and begins anew."""
        self.add_up()
        sent = tuple(sent / max(1, self._num_tokens) for sent in self._sent_bytes)
        taken = Taken(self._totals, self._num_steps, self._reduce_clock.take(), sent)
        self._totals, self._num_steps = [{} for _ in self._totals], 0
        self._num_tokens, self._sent_bytes = 0, [0] * len(self._totals)
        return taken


def busy_seconds(answers: Sequence[StepDone], groups: Sequence[GroupReduces]) -> list[float]:
    """The seconds that each stage worked on a step: its slowest rank's, but for waiting for other stages."""
    busy = [sum(done.ledger.values()) - done.ledger.get(HANDOVER, 0.0) for done in answers]
    return [max(busy[group.first : group.stop]) * 1e-6 for group in groups]
