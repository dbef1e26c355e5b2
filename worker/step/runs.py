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
    lengths: Ints
    read_slots: Ints
    write_slots: Ints
    first_rows: Ints  # [runs + 1], the last is the number of rows
    positions: Ints  # [rows]

    @property
    def stop_positions(self) -> Ints:
        """Behind the last row of each run."""
        stops: Ints = self.first_positions + self.lengths
        return stops


def checked_runs(step: Step, limits: Limits) -> Runs:
    """Raises StepError for runs that are not the step's rows, or have no seat, no position or no state."""
    columns = columns_of("runs", step.runs, 5).T
    seats, first_positions, lengths, reads, writes = columns
    num_rows = step.token_ids.size
    check_range("number of rows in a run", lengths, num_rows + 1, first=1)
    if lengths.sum(dtype=np.int64) != num_rows:
        raise StepError(f"step {step.number} has {num_rows} tokens, but runs of {lengths.sum()} rows")
    check_range("seat", seats, limits.max_sequences)
    check_range("position", first_positions, limits.context_length)
    check_range("last position", first_positions + (lengths - 1), limits.context_length)  # may wrap
    _check_slots(step.number, first_positions, reads, writes, limits.num_slots)
    first_rows = np.zeros(lengths.size + 1, np.int32)
    np.cumsum(lengths, out=first_rows[1:])
    positions = np.arange(num_rows, dtype=np.int32) + np.repeat(first_positions - first_rows[:-1], lengths)
    return Runs(seats, first_positions, lengths, reads, writes, first_rows, positions)


def _check_slots(number: int, first_positions: Ints, reads: Ints, writes: Ints, num_slots: int) -> None:
    """Each state is written by one run, and what others read in the same step is written by none."""
    if not num_slots:
        check_range("state slot read", reads, 0, first=-1)
        check_range("state slot written", writes, 0, first=-1)
        return
    check_range("state slot read", reads, num_slots, first=-1)
    check_range("state slot written", writes, num_slots)
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
