"""Adds up what the answers of steps tell of their time: the ranks' ledgers, all-reduces, and the trace."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tplaunch.coordinator.measuring.ledger import Ledger, make_ledger
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
    turn_seconds: float | None  # median, from a step's last answer until the next step was sent

    def ledger(self, seconds: float) -> Ledger:
        """Makes the ledger of these steps, which took so long in all."""
        return make_ledger(
            self.totals,
            self.num_steps,
            seconds,
            self.reduce_times,
            self.sent_per_token,
            self.turn_seconds,
        )


class _Noted(NamedTuple):
    """A step that has ended."""

    step: Step
    begin: float
    end: float
    answers: Sequence[StepDone]
    groups: Sequence[GroupReduces]
    row_bytes: int


class StepTimes:
    """The times of steps since they were taken last; `note` is called for each, `add_up` when time allows."""

    def __init__(self, num_ranks: int, trace: Trace | None) -> None:
        self._trace = trace
        self._totals: Totals = [{} for _ in range(num_ranks)]
        self._noted: deque[_Noted] = deque()  # not yet in the totals
        self._num_steps = 0  # that the totals cover
        self._reduce_clock = ReduceClock()
        self._num_tokens, self._sent_bytes = 0, [0] * num_ranks
        self._turns: list[float] = []
        self._turn_began: float | None = None

    def begin_turn(self) -> None:
        """All answers to a step are there: from now on the ranks wait for this process."""
        self._turn_began = time.perf_counter()

    def end_turn(self) -> None:
        """The next step was sent."""
        if self._turn_began is not None:
            self._turns.append(time.perf_counter() - self._turn_began)
            self._turn_began = None

    @property
    def trace(self) -> Trace | None:
        """All steps one by one, where they are kept."""
        self.add_up()
        return self._trace

    def note(
        self,
        step: Step,
        begin: float,
        answers: Sequence[StepDone],
        groups: Sequence[GroupReduces],
        row_bytes: int,
    ) -> None:
        """Takes a step that began then, and has ended now. row_bytes: of what an all-reduce adds up."""
        self._noted.append(_Noted(step, begin, time.perf_counter(), answers, groups, row_bytes))
        if step.wanted.whole_rows.size:
            self.add_up()  # the answers hold as many megabytes

    def add_up(self) -> None:
        """Takes the steps that were noted into the totals."""
        while self._noted:
            self._add(self._noted.popleft())

    def _add(self, noted: _Noted) -> None:
        step, answers = noted.step, noted.answers
        if self._trace is not None:
            self._trace.add(step, noted.begin, noted.end, answers)
        for group in noted.groups:
            count = group.with_logits if step.logit_rows.size else group.without_logits
            num_bytes = step.token_ids.size * noted.row_bytes
            self._reduce_clock.add(answers[group.first : group.stop], count, num_bytes)
        self._num_tokens += step.token_ids.size
        self._sent_bytes = [
            sent + done.sent_bytes for sent, done in zip(self._sent_bytes, answers, strict=True)
        ]
        self._num_steps += 1
        for totals, done in zip(self._totals, answers, strict=True):
            for kind, microseconds in done.ledger.items():
                totals[kind] = totals.get(kind, 0.0) + microseconds

    def spent(self) -> Totals:
        """Returns each rank's totals, of steps before the last one. Any thread may call this."""
        return [totals.copy() for totals in self._totals]

    def take(self) -> Taken:
        """Returns what steps took, and begins anew."""
        self.add_up()
        sent = tuple(sent / max(1, self._num_tokens) for sent in self._sent_bytes)
        turn = statistics.median(self._turns) if self._turns else None
        taken = Taken(self._totals, self._num_steps, self._reduce_clock.take(), sent, turn)
        self._turns, self._turn_began = [], None
        self._totals, self._num_steps = [{} for _ in self._totals], 0
        self._num_tokens, self._sent_bytes = 0, [0] * len(self._totals)
        return taken


def busy_seconds(answers: Sequence[StepDone], groups: Sequence[GroupReduces]) -> list[float]:
    """The seconds that each stage worked on a step: its slowest rank's, but for waiting for other stages."""
    busy = [sum(done.ledger.values()) - done.ledger.get(HANDOVER, 0.0) for done in answers]
    return [max(busy[group.first : group.stop]) * 1e-6 for group in groups]
