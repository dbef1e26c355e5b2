"""The model as data: segments of operations over named buffers, cut at the all-reduces.

A spec, a rank's share and a row bucket go in, a Program comes out. Knows no device; every device runs
the same program, and `worker/buffers/table.py` says how large each buffer is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from tplaunch.worker.ops.common import Op
from tplaunch.worker.ops.exchange import Gather


class Phase(Enum):
    """The task of the host behind a segment. In two phases a rank's device adds up a slice only."""

    ONE_SHOT = "one-shot"  # all partials, for every rank to add up
    PARTIALS = "partials"  # this rank's slice of all partials
    SLICES = "slices"  # the sum, from the ranks' slices
    HOSTS = "hosts"  # the sum, which the hosts add up among themselves


@dataclass(frozen=True)
class Segment:
    """Operations that run without a word from the host; then an all-reduce or a phase of one, or the end."""

    ops: tuple[Op, ...]
    parity: int | None
    phase: Phase = Phase.ONE_SHOT
    row_length: int = 0  # float32 of a row of what is exchanged; 0 for those of the residual stream

    @property
    def is_exact(self) -> bool:
        """Tells whether nothing may be rounded: short rows are squares, or the numbers of experts."""
        return self.row_length > 0

    def num_elements(self, num_rows: int, hidden_length: int) -> int:
        """Returns the number of elements that are added up, for `num_rows` rows."""
        return num_rows * (self.row_length or hidden_length)


@dataclass(frozen=True)
class Program:
    """A whole step for up to `rows` rows, of which up to `logit_rows` get logits."""

    rows: int
    logit_rows: int
    segments: tuple[Segment, ...]

    @cached_property
    def num_gathers(self) -> int:
        """The exchanges that devices make among themselves."""
        return sum(isinstance(op, Gather) for segment in self.segments for op in segment.ops)

    @property
    def num_all_reduces(self) -> int:
        ends = (segment for segment in self.segments if segment.parity is not None)
        return sum(segment.phase is not Phase.SLICES for segment in ends)
