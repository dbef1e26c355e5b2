"""A step of segments that do next to nothing, for timing their way to a device and back."""

from __future__ import annotations

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.step import StepLayout
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.ops.common import SumNorm
from tplaunch.worker.programs.program import Program, Segment

WIDTH = 32  # of the row that a segment normalises
LIMITS = Limits(context_length=1, num_blocks=1, max_rows=1, max_logit_rows=1)


def idle_program(num_segments: int) -> Program:
    """Returns a program of so many segments, between which the host has a word."""
    op = SumNorm("hidden", "weight", WIDTH, 1e-5, "normed", "rows")
    segments = (Segment((op,), 0),) * (num_segments - 1) + (Segment((op,), None),)
    return Program(1, 0, segments)


def idle_buffers() -> dict[str, Buffer]:
    """Returns what that program reads and writes."""
    return {
        "step": Buffer(StepLayout(LIMITS).num_words * 4, Placement.UPLOAD),
        **{name: Buffer(WIDTH * 4, row_length=WIDTH) for name in ("hidden", "weight", "normed")},
    }
