"""Picks the rows of the next step, their seats, KV blocks and state slots. Pure arithmetic: no device.

Every sequence that waits for one row (decode) gets it first; what room is left goes to prefill, in order
of arrival, in chunks. Where a step has no room for all that decode, they take turns, and the oldest prompt
comes first once it has waited for a whole round of theirs: everything advances.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.split.limits import Limits


class CapacityError(RuntimeError):
    """No sequence can go on: the KV cache is full."""


@dataclass(eq=False)
class Sequence:
    """One prompt and what was made of it."""

    tokens: list[int]
    all_logits: bool = False  # of every position, not only of the last one
    num_computed: int = 0  # tokens whose keys and values are in the cache
    seat: int | None = None  # of its block tables
    blocks: list[int] = field(default_factory=list)
    window_blocks: dict[int, int] = field(default_factory=dict)  # by place in the table
    slot: int | None = None  # of its recurrent state, in a model that has one
    last_step: int = 0  # that computed rows of it

    @property
    def num_waiting(self) -> int:
        return len(self.tokens) - self.num_computed


@dataclass(frozen=True)
class Run:
    """Consecutive rows of one sequence within a step."""

    sequence: Sequence
    start: int  # position of the first row
    length: int
    logit_positions: range  # those of its positions that get logits


class Scheduler:
    """Owns the KV blocks and the sequences; `schedule` makes a step, `finish` takes note of its result."""

    def __init__(self, limits: Limits, window: int = 0) -> None:
        """window: keys that a row of layers with a window sees at most; 0 to keep all of them."""
        self._limits, self._window = limits, window
        self._free_seats = list(range(limits.max_sequences))[::-1]
        self._free_blocks = list(range(limits.num_blocks))[::-1]
        self._free_window_blocks = list(range(limits.num_window_blocks))[::-1]
        self._tables: list[int] = []  # changes that no step has told yet
        self._window_tables: list[int] = []
        self._free_slots = list(range(limits.num_slots))[::-1]
        self._sequences: list[Sequence] = []
        self._num_steps = 0

    def add(self, sequence: Sequence) -> None:
        sequence.last_step = self._num_steps
        self._sequences.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        self._sequences.remove(sequence)
        self._free_blocks += sequence.blocks
        self._free_window_blocks += sequence.window_blocks.values()
        sequence.blocks, sequence.window_blocks = [], {}
        if sequence.seat is not None:
            self._free_seats.append(sequence.seat)
            sequence.seat = None
        if sequence.slot is not None:
            self._free_slots.append(sequence.slot)
            sequence.slot = None

    def schedule(self) -> tuple[Step, list[Run]]:
        """The next step. Raises CapacityError where no sequence finds a block for its next row."""
        runs: list[Run] = []
        rows_left, logits_left = self._limits.max_rows, self._limits.max_logit_rows
        for sequence in self._by_turn():
            run = self._run(sequence, rows_left, logits_left)
            if run.length:
                runs.append(run)
                rows_left -= run.length
                logits_left -= len(run.logit_positions)
        if not runs:
            raise CapacityError(
                f"the KV cache of {self._limits.num_blocks} blocks"
                f" of {self._limits.block_length} positions is full"
            )
        self._num_steps += 1
        for run in runs:
            run.sequence.last_step = self._num_steps
        step = _step(self._num_steps, runs, self._tables, self._window_tables)
        self._tables, self._window_tables = [], []
        return step, runs

    def _by_turn(self) -> list[Sequence]:
        """All sequences, those first whose turn it is."""
        decode = [sequence for sequence in self._sequences if sequence.num_waiting <= 1]
        prefill = [sequence for sequence in self._sequences if sequence.num_waiting > 1]
        decode.sort(key=lambda sequence: sequence.last_step)
        overdue = prefill and self._num_steps - prefill[0].last_step > len(decode)
        return prefill[:1] + decode + prefill[1:] if overdue else decode + prefill

    def finish(self, runs: list[Run]) -> None:
        """The step was computed: its keys and values are in the cache."""
        for run in runs:
            run.sequence.num_computed += run.length

    def _run(self, sequence: Sequence, rows_left: int, logits_left: int) -> Run:
        """As many rows of the sequence as find room, logits and blocks."""
        length = min(sequence.num_waiting, rows_left)
        if sequence.all_logits:
            length = min(length, logits_left)
        elif not logits_left:
            length = max(0, min(length, sequence.num_waiting - 1))
        start = sequence.num_computed
        if length and not (self._reserve_seat(sequence) and self._reserve_slot(sequence)):
            length = 0
        stop = self._reserve_window(sequence, start, self._reserve(sequence, start, start + length))
        length = stop - start
        first = start if sequence.all_logits else max(start, len(sequence.tokens) - 1)
        return Run(sequence, start, length, range(min(first, stop), stop))

    def _reserve(self, sequence: Sequence, start: int, stop: int) -> int:
        """Gives the sequence blocks for its positions up to `stop`; returns up to where it has some."""
        if start == stop or not self._limits.num_blocks:
            return stop
        while len(sequence.blocks) * self._limits.block_length < stop and self._free_blocks:
            block = self._free_blocks.pop()
            self._tables += (self._seat(sequence), len(sequence.blocks), block)
            sequence.blocks.append(block)
        return max(start, min(stop, len(sequence.blocks) * self._limits.block_length))

    def _reserve_window(self, sequence: Sequence, start: int, stop: int) -> int:
        """The same in layers with a window: what lies before that of row `start` is given back first."""
        if start == stop or not self._limits.num_window_blocks:
            return stop
        length, held = self._limits.block_length, sequence.window_blocks
        first = max(0, start + 1 - self._window) // length if self._window else 0
        for place in [place for place in held if place < first]:
            self._free_window_blocks.append(held.pop(place))
        for place in range(first, -(-stop // length)):
            if place not in held:
                if not self._free_window_blocks:
                    return max(start, place * length)
                held[place] = self._free_window_blocks.pop()
                self._window_tables += (self._seat(sequence), place, held[place])
        return stop

    def _reserve_seat(self, sequence: Sequence) -> bool:
        """Whether the sequence has a seat."""
        if sequence.seat is None and self._free_seats:
            sequence.seat = self._free_seats.pop()
        return sequence.seat is not None

    @staticmethod
    def _seat(sequence: Sequence) -> int:
        assert sequence.seat is not None, "a sequence without a seat has no block table"
        return sequence.seat

    def _reserve_slot(self, sequence: Sequence) -> bool:
        """Whether the sequence has a place for its recurrent state, or needs none."""
        if self._limits.num_slots and sequence.slot is None and self._free_slots:
            sequence.slot = self._free_slots.pop()
        return not self._limits.num_slots or sequence.slot is not None


def _step(number: int, runs: list[Run], tables: list[int], window_tables: list[int]) -> Step:
    token_ids: list[int] = []
    columns: list[int] = []  # of runs
    logit_rows: list[int] = []
    for run in runs:
        sequence, first_row = run.sequence, len(token_ids) - run.start
        logit_rows += [first_row + position for position in run.logit_positions]
        token_ids += sequence.tokens[run.start : run.start + run.length]
        slot = -1 if sequence.slot is None else sequence.slot
        assert sequence.seat is not None, "a run has a seat"
        columns += (sequence.seat, run.start, run.length, slot if run.start else -1, slot)
    arrays = (token_ids, columns, logit_rows, tables, window_tables)
    return Step(number, *(np.array(array, np.int32) for array in arrays))
