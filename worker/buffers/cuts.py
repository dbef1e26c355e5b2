"""Cuts a sequence's keys for attention: at fixed positions, whatever else is in the step.

A cut's keys are summed up from zero, the cuts of a chunk are folded from left to right, and so are the
chunks; shaders/softmax.slang has the arithmetic. Who computes them changes nothing: a workgroup for each cut,
whose sums attention_combine folds, or one for a chunk that folds its cuts itself. A step takes the first way
where the buffers hold its cuts, since a lone row else has few workgroups.

How long the cuts of a row are follows from its position and the device alone: a device with many units of
compute has shorter ones while the row has few keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.limits import Limits

CUT = 256  # keys: the tiles of 32 lanes have as many
QUARTER, HALF = 4, 2  # the shares of it that short cuts are
CHUNK = 16384  # keys one workgroup walks: lavapipe 22.3 cuts an invocation off after 65,535 iterations
SHORT_SLOTS = 1024  # parts for which there is room in cuts of a quarter: of some ten rows

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ShortCuts:
    """The rows whose cuts are shorter than CUT: half as long before a position, a quarter before another."""

    half: int = 0  # the first row whose cuts are whole
    quarter: int = 0  # the first row whose cuts are longer than a quarter

    @property
    def least(self) -> int:
        """The keys of the shortest cut."""
        return CUT // QUARTER if self.quarter else CUT // HALF if self.half else CUT

    def of(self, positions: Integers) -> Integers:
        """Returns the keys of a cut of the rows at these positions."""
        return np.right_shift(CUT, (positions < self.half) + (positions < self.quarter).astype(np.int64))


NO_SHORT_CUTS = ShortCuts()
MOST_SHORT = 64  # cuts of a row, above which they get longer: attention_combine folds them one by one


def short_cuts(compute_units: int, groups: int) -> ShortCuts:
    """Cuts so that a lone row has two workgroups for each unit, where every cut has so many of them."""
    wanted = -(-2 * compute_units // max(1, groups))
    count = min(MOST_SHORT, 1 << max(0, wanted - 1).bit_length())
    if count == 1:
        return NO_SHORT_CUTS
    return ShortCuts(half=count * CUT // HALF, quarter=count * CUT // QUARTER)


def attention_slots(limits: Limits) -> int:
    """Returns how many parts of rows the attention buffers hold, of every head.

    They hold every chunk of as many rows as a step has, and every cut of all sequences that the cache holds,
    where one row of each decodes; short ones of these as far as that is not too many.
    """
    chunks = -(-limits.context_length // CHUNK)
    positions = limits.num_blocks * limits.block_length
    short = min(SHORT_SLOTS, positions * QUARTER // CUT + limits.max_decode_rows)
    return max(limits.max_rows * chunks, positions // CUT + limits.max_rows, short)


FIRST_SLOT = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Parts:
    """The parts in which the keys of a step's rows are given to workgroups."""

    length: int  # keys of a part, where the row's cut is not longer
    starts: npt.NDArray[np.int64]  # the slot of each row's first part; those of the others follow
    most: int  # parts of one row
    total: int


def parts_of(positions: Integers, length: int, short: ShortCuts = NO_SHORT_CUTS) -> Parts:
    """Shares out the keys up to these positions in parts of one length, or of a cut where that is longer."""
    lengths = np.maximum(length, short.of(positions)) if short.half else max(length, CUT)
    counts = positions // lengths + 1
    if counts.size == 1:  # of a text alone: at once
        return Parts(length, FIRST_SLOT, int(counts[0]), int(counts[0]))
    return Parts(length, counts.cumsum() - counts, int(counts.max(initial=1)), int(counts.sum()))


def fitting_parts(positions: Integers, slots: int, short: ShortCuts = NO_SHORT_CUTS) -> Parts:
    """Shares out the keys up to these positions as finely as so many slots allow."""
    parts = parts_of(positions, short.least, short)
    return parts if parts.total <= slots else parts_of(positions, CHUNK)
