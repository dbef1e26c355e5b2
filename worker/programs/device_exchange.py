"""Turns a program's all-reduces into ones that the devices make among themselves: one segment is left."""

from __future__ import annotations

from collections.abc import Iterator

from tplaunch.collectives.arena import WORD_ELEMENTS
from tplaunch.worker.ops.common import GatherNorm, Op, SumNorm
from tplaunch.worker.ops.exchange import Gather
from tplaunch.worker.programs.program import Phase, Program, Segment


def can_exchange(program: Program, row_length: int) -> bool:
    """Tells whether all its all-reduces are one-shot and small enough. row_length: of the residual stream."""
    ends = [segment for segment in program.segments if segment.parity is not None]
    return bool(ends) and all(
        segment.phase is Phase.ONE_SHOT
        and segment.num_elements(program.rows, row_length) <= WORD_ELEMENTS
        and program.rows * row_length <= WORD_ELEMENTS  # so long are the rows that a product writes
        for segment in ends
    )


def with_exchanges(program: Program) -> Program:
    """The same program in one segment, in which gathers stand where the host would have all-reduced.

    A gather before the op that adds up its numbers is one with that.
    """
    return Program(program.rows, program.logit_rows, (Segment(tuple(_ops(program)), None),))


def _ops(program: Program) -> Iterator[Op]:
    index, gather = 0, None
    for segment in program.segments:
        ops = segment.ops
        if gather is not None:
            together = _together(gather, ops)
            yield together or gather
            ops = ops[together is not None :]
            gather = None
        yield from ops
        if segment.parity is not None:
            gather = Gather(segment.parity, segment.row_length, index)
            index += 1


def _together(gather: Gather, ops: tuple[Op, ...]) -> GatherNorm | None:
    """Returns a gather and the first of the ops behind it as one op, where they can be."""
    first = ops[0] if ops else None
    if isinstance(first, SumNorm) and first.parity == gather.parity and first.rows == "rows":
        return None if gather.row_length else GatherNorm(gather, first)
    return None
