"""Cuts a sequence's keys for attention: at fixed positions, whatever else is in the step.

A cut's keys are summed up from zero, the cuts of a chunk are folded from left to right, and so are the
chunks; shaders/softmax.slang has the arithmetic. Who computes them changes nothing: a workgroup for each cut,
whose sums attention_combine folds, or one for a chunk that folds its cuts itself. A step takes the first way
where the buffers hold its cuts, since a lone row else has few workgroups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.limits import Limits

CUT = 256  # keys: fewer are not worth a workgroup, and the tiles of 32 lanes have as many
CHUNK = 16384  # keys one workgroup walks: lavapipe 22.3 cuts an invocation off after 65,535 iterations


def attention_slots(limits: Limits) -> int:
    """Returns how many parts of rows the attention buffers hold, of every head.

    They hold every chunk of as many rows as a step has, and every cut of all sequences that the cache holds,
    where one row of each decodes.
    """
    chunks = -(-limits.context_length // CHUNK)
    cuts = limits.num_blocks * limits.block_length // CUT + limits.max_rows
    return max(limits.max_rows * chunks, cuts)


FIRST_SLOT = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Parts:
    """The parts in which the keys of a step's rows are given to workgroups."""

    length: int  # keys of a part: CUT or CHUNK
    starts: npt.NDArray[np.int64]  # the slot of each row's first part; those of the others follow
    most: int  # parts of one row


def parts_of(positions: npt.NDArray[np.integer[Any]], length: int) -> Parts:
    """Shares out the keys up to these positions in parts of one length."""
    if positions.size == 1:  # of a text alone: at once
        return Parts(length, FIRST_SLOT, int(positions[0]) // length + 1)
    counts = positions // length + 1
    return Parts(length, counts.cumsum() - counts, int(counts.max(initial=1)))


def fitting_parts(positions: npt.NDArray[np.integer[Any]], slots: int) -> Parts:
    """Shares out the keys up to these positions as finely as so many slots allow."""
    parts = parts_of(positions, CUT)
    num_parts = int(parts.starts[-1]) + int(positions[-1]) // CUT + 1
    return parts if num_parts <= slots else parts_of(positions, CHUNK)
