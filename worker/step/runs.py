"""The runs of a step: neighbouring rows of one sequence, checked and expanded to rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.step.checks import Ints, StepError, check_range, columns_of


@dataclass(frozen=True)
class Runs:
    """The columns of Step.runs [runs], and what follows from them for each row."""

    seats: Ints
    first_positions: Ints
    read_slots: Ints
    write_slots: Ints
    first_rows: Ints  # [runs + 1], the last is the number of rows
    positions: Ints  # [rows]
    row_seats: Ints  # [rows]
    stop_positions: list[int]  # behind the last row of each run


COLUMNS = ("seat", "position", "number of rows in a run", "state slot read", "state slot written")


class RunReader:
    """Reads the runs of one step after another, for one set of limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        slots = limits.num_slots
        self._first = (0, 0, 1, -1, 0 if slots else -1)
        self._stop = (limits.max_sequences, limits.context_length, limits.max_rows + 1, slots, slots)
        self._row_numbers = np.arange(limits.max_rows + 1, dtype=np.int32)

    def read(self, step: Step) -> Runs:
        """Raises StepError for runs that are not the rows of the step, or have no seat, position or state."""
        columns = columns_of("runs", step.runs, len(COLUMNS))
        entries = columns.tolist()
        for entry in entries:
            if not all(map(_is_within, entry, self._first, self._stop)):
                for name, values, stop, first in zip(
                    COLUMNS, columns.T, self._stop, self._first, strict=True
                ):
                    check_range(name, values, stop, first)
        seats, first_positions, lengths, reads, writes = columns.T
        num_rows, total = step.token_ids.size, sum(length for _, _, length, _, _ in entries)
        if total != num_rows:
            raise StepError(f"step {step.number} has {num_rows} tokens, but runs of {total} rows")
        first_rows, positions, row_seats = self._row_numbers[: lengths.size + 1], first_positions, seats
        if lengths.size < num_rows:  # some have several rows
            first_rows = np.zeros(lengths.size + 1, np.int32)
            lengths.cumsum(out=first_rows[1:])
            positions = self._row_numbers[:num_rows] + (first_positions - first_rows[:-1]).repeat(lengths)
            check_range("last position", positions[first_rows[1:] - 1], self._limits.context_length)
            row_seats = seats.repeat(lengths)
        if self._limits.num_slots:
            _check_slots(step.number, first_positions, reads, writes, self._limits.num_slots)
        stops = [start + length for _, start, length, _, _ in entries]
        return Runs(seats, first_positions, reads, writes, first_rows, positions, row_seats, stops)


def _is_within(value: int, first: int, stop: int) -> bool:
    return first <= value < stop


def _check_slots(number: int, first_positions: Ints, reads: Ints, writes: Ints, num_slots: int) -> None:
    """Each state is written by one run, and what others read in the same step is written by none."""
    if np.any((reads < 0) != (first_positions == 0)):
        raise StepError(
            f"step {number}: a state begins elsewhere than at position 0, or does not begin there"
        )
    writers = np.full(num_slots + 1, -1, np.int64)  # of each slot; the last entry is for no slot at all
    runs = np.arange(writes.size)
    writers[writes] = runs
    if np.any(writers[writes] != runs):
        raise StepError(f"step {number}: two runs write the same state slot")
    writers[-1] = -1
    others = writers[reads]
    if np.any((others >= 0) & (others != runs)):
        raise StepError(f"step {number}: a run reads a state slot that another one writes")
