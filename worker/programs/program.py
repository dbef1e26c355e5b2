"""The model as data: segments of operations over named buffers, cut at the all-reduces.

A spec, a rank's share and a row bucket go in, a Program comes out. Knows no device; every device runs
the same program, and `worker/buffers/table.py` says how large each buffer is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from tplaunch.worker.ops.common import GatherNorm, Op
from tplaunch.worker.ops.exchange import WIRE_BYTES, Gather, MovePartials


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
    wire: str = "f32"  # one of WIRE_BYTES, as which the ranks of a host read each other's numbers

    @property
    def element_bytes(self) -> int:
        """Bytes of the arena for each number; in two phases slices are where their float32 would be."""
        return WIRE_BYTES[self.wire if self.phase is Phase.ONE_SHOT else "f32"]

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
        return sum(exchange_of(op) is not None for segment in self.segments for op in segment.ops)

    @cached_property
    def has_moves(self) -> bool:
        """Tells whether kernels write partial sums to memory of the device's own."""
        return any(isinstance(op, MovePartials) for segment in self.segments for op in segment.ops)

    @property
    def num_all_reduces(self) -> int:
        ends = (segment for segment in self.segments if segment.parity is not None)
        return sum(segment.phase is not Phase.SLICES for segment in ends)


def exchange_of(op: Op) -> Gather | None:
    """Returns the exchange that devices make among themselves in an op, where it has one."""
    if isinstance(op, GatherNorm):
        return op.gather
    return op if isinstance(op, Gather) else None
