"""The block tables of one pool in the step buffer: which blocks hold each sequence's keys and values.

They stay from step to step; a step brings the changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.step.checks import Ints, StepError, check_range

Read = tuple[int, int, int]  # by a seat's rows: its number, the first position, the one behind the last


class BlockTables:
    """Changes are [changes, 3]: seat, index in the seat's table, block."""

    def __init__(self, entries: npt.NDArray[np.uint32], limits: Limits, num_blocks: int) -> None:
        """entries: of all seats in the step buffer, none without blocks."""
        self._entries, self._limits, self._num_blocks = entries, limits, num_blocks
        self._is_set = np.zeros((limits.max_sequences, limits.blocks_per_seat), bool)
        self._length = limits.block_length
        # Of each seat, the positions whose blocks are known to be set.
        self._known_first = [0] * limits.max_sequences
        self._known_stop = [0] * limits.max_sequences

    def check(self, changes: Ints) -> None:
        """Raises StepError for an entry that there is not, and for a block that there is not."""
        if not changes.size:
            return
        check_range("seat of a block", changes[:, 0], self._limits.max_sequences)
        check_range("place in a block table", changes[:, 1], self._limits.blocks_per_seat)
        check_range("block", changes[:, 2], self._num_blocks)

    def check_reads(self, changes: Ints, reads: Sequence[Read]) -> bool:
        """Raises StepError where rows read the blocks of positions that were never set.

        A step rarely reads other blocks than the step before it: only a new one is looked at. Returns whether
        there were any: note_reads then saves the next steps a look at them.
        """
        new = [
            read
            for read in reads
            if read[1] < self._known_first[read[0]] or read[2] > self._known_stop[read[0]]
        ]
        for seat, first, stop in new:
            begin, end = first // self._length, -(-stop // self._length)
            unset = begin + np.flatnonzero(~self._is_set[seat, begin:end])
            left = np.setdiff1d(unset, changes[changes[:, 0] == seat, 1]) if unset.size else unset
            if left.size:
                raise StepError(f"the block table of seat {seat} has no block at place {left[0]}")
        return bool(new)

    def write(self, changes: Ints) -> None:
        """Later changes of an entry go over earlier ones."""
        if not changes.size:
            return
        seats, places, blocks = changes.T
        self._entries[seats * self._limits.blocks_per_seat + places] = blocks
        self._is_set[seats, places] = True

    def note_reads(self, reads: Sequence[Read]) -> None:
        """The blocks of these positions were found to be set."""
        for seat, first, stop in reads:
            self._known_first[seat] = first // self._length * self._length
            self._known_stop[seat] = -(-stop // self._length) * self._length
