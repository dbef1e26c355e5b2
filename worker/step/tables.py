"""The block tables of one pool in the step buffer: which blocks hold each sequence's keys and values.

They stay from step to step; a step brings the changes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.step.checks import Ints, StepError, check_range


class BlockTables:
    """Changes are [changes, 3]: seat, index in the seat's table, block."""

    def __init__(self, entries: npt.NDArray[np.uint32], limits: Limits, num_blocks: int) -> None:
        """entries: of all seats in the step buffer, none without blocks."""
        self._entries, self._limits, self._num_blocks = entries, limits, num_blocks
        self._is_set = np.zeros((limits.max_sequences, limits.blocks_per_seat), bool)
        self._known = np.zeros((limits.max_sequences, 2), np.int64)  # entries that are known to be set

    def check(self, changes: Ints) -> None:
        """Raises StepError for an entry that there is not, and for a block that there is not."""
        if not changes.size:
            return
        check_range("seat of a block", changes[:, 0], self._limits.max_sequences)
        check_range("place in a block table", changes[:, 1], self._limits.blocks_per_seat)
        check_range("block", changes[:, 2], self._num_blocks)

    def check_reads(self, changes: Ints, seats: Ints, first: Ints, stop: Ints) -> bool:
        """Raises StepError where rows read entries, from first to stop of each seat, that were never set.

        A step rarely reads other entries than the step before it: only those of a new block are looked at.
        Returns whether there were any: note_reads then saves the next steps a look at them.
        """
        known = self._known[seats]
        unknown = (first < known[:, 0]) | (stop > known[:, 1])
        if not unknown.any():
            return False
        for run in np.flatnonzero(unknown).tolist():
            seat = int(seats[run])
            unset = first[run] + np.flatnonzero(~self._is_set[seat, first[run] : stop[run]])
            left = np.setdiff1d(unset, changes[changes[:, 0] == seat, 1]) if unset.size else unset
            if left.size:
                raise StepError(f"the block table of seat {seat} has no block at place {left[0]}")
        return True

    def write(self, changes: Ints) -> None:
        """Later changes of an entry go over earlier ones."""
        if not changes.size:
            return
        seats, places, blocks = changes.T
        self._entries[seats * self._limits.blocks_per_seat + places] = blocks
        self._is_set[seats, places] = True

    def note_reads(self, seats: Ints, first: Ints, stop: Ints) -> None:
        """These entries were found to be set."""
        self._known[seats, 0] = first
        self._known[seats, 1] = stop
