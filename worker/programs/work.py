"""Estimates what a program computes, and cuts its segments so that no piece takes a device too long.

An operation is a multiplication or an addition of two numbers. Products and attention count; what else there
is takes next to no time beside them.
"""

from __future__ import annotations

import math

from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.ops.experts import ExpertMatMul
from tplaunch.worker.ops.latent import HeadProducts
from tplaunch.worker.programs.program import Program, Segment


def operations(op: Op, program: Program, num_keys: int) -> float:
    """Operations of one op, with all rows of the program and so many keys for each of them."""
    if isinstance(op, MatMul):
        rows = program.rows if op.rows == "rows" else program.logit_rows
        return 2.0 * rows * op.matrix.rows * op.matrix.columns
    if isinstance(op, ExpertMatMul):
        products = op.columns * (2 if op.gated else 1)
        return 2.0 * program.rows * op.held.used * products * op.matrix.columns
    if isinstance(op, Attention):
        seen = min(num_keys, op.window) if op.window else num_keys
        return 2.0 * program.rows * op.num_heads * (op.key_length + op.value_length) * seen
    if isinstance(op, HeadProducts):
        return 2.0 * program.rows * op.matrix.rows * op.matrix.columns
    return 0.0


def total_operations(program: Program, num_keys: int) -> float:
    """Operations of a whole program."""
    return sum(operations(op, program, num_keys) for segment in program.segments for op in segment.ops)


def most_row_keys(program: Program, most_operations: float) -> int:
    """Returns the rows, times the keys that each sees, with which no attention has more operations than that.

    0 for no bound. Windows bound the keys of a row by themselves.
    """
    of_a_key = max(
        (operations(op, program, 1) for segment in program.segments for op in segment.ops if _sees_all(op)),
        default=0.0,
    )
    if not of_a_key or math.isinf(most_operations):
        return 0
    return max(1, int(most_operations * program.rows / of_a_key))


def _sees_all(op: Op) -> bool:
    return isinstance(op, Attention) and not op.window


def pieces(segment: Segment, program: Program, num_keys: int, budget: float) -> list[tuple[Op, ...]]:
    """Cuts a segment's ops into pieces of at most `budget` operations each; a larger op stands alone.

    At least one piece, which may be empty.
    """
    found: list[list[Op]] = [[]]
    spent = 0.0
    for op in segment.ops:
        more = operations(op, program, num_keys)
        if found[-1] and spent + more > budget:
            found.append([])
            spent = 0.0
        found[-1].append(op)
        spent += more
    return [tuple(piece) for piece in found]
