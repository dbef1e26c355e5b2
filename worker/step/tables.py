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
        # Of each seat, the positions whose entries are known to be set.
        self._known_first = np.zeros(limits.max_sequences, np.int32)
        self._known_stop = np.zeros(limits.max_sequences, np.int32)

    def check(self, changes: Ints) -> None:
        """Raises StepError for an entry that there is not, and for a block that there is not."""
        if not changes.size:
            return
        check_range("seat of a block", changes[:, 0], self._limits.max_sequences)
        check_range("place in a block table", changes[:, 1], self._limits.blocks_per_seat)
        check_range("block", changes[:, 2], self._num_blocks)

    def check_reads(self, changes: Ints, seats: Ints, first: Ints | None, stop: Ints) -> bool:
        """Raises StepError where rows read entries of positions, from first to stop, that were never set.

        first: None for layers without a window, which read all of them up to stop, in every step.
        A step rarely reads other entries than the step before it: only those of a new block are looked at.
        Returns whether there were any: note_reads then saves the next steps a look at them.
        """
        unknown = stop > self._known_stop[seats]
        if first is not None:
            unknown |= first < self._known_first[seats]
        if not unknown.any():
            return False
        length = self._limits.block_length
        for run in np.flatnonzero(unknown).tolist():
            seat, begin = int(seats[run]), 0 if first is None else int(first[run]) // length
            unset = begin + np.flatnonzero(~self._is_set[seat, begin : -(-int(stop[run]) // length)])
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

    def note_reads(self, seats: Ints, first: Ints | None, stop: Ints) -> None:
        """The entries of these positions were found to be set."""
        length = self._limits.block_length
        if first is not None:
            self._known_first[seats] = first // length * length
        self._known_stop[seats] = -(-stop // length) * length
