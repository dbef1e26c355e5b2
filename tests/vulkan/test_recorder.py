"""Where barriers go: between ops that touch the same buffer, unless both only read it."""

from __future__ import annotations

import pytest

from tplaunch.worker.ops.attention import AttentionCombine
from tplaunch.worker.ops.common import Activate, MatMul, Op, SumNorm
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.vulkan.recorder import Hazards


def matmul(source: str, output: str, offset: int = 0, rows: int = 1) -> MatMul:
    return MatMul(Matrix("matrix", "F32", rows, 32), None, source, output, offset, "rows")


NORM = SumNorm("hidden", "weight", 32, 1e-5, "normed", "rows")


@pytest.mark.parametrize(
    ("ops", "barriers"),
    [
        ([NORM, matmul("normed", "gate_up"), Activate(1, 0, "silu")], [0, 1, 1]),
        ([matmul("normed", "qkv", 0, 4), matmul("normed", "qkv", 4), matmul("normed", "qkv", 3)], [0, 0, 1]),
        ([matmul("normed", "gate"), NORM], [0, 1]),  # overwrites what the other reads
        ([matmul("normed", "gate"), matmul("hidden", "gate")], [0, 1]),  # both write it
        ([matmul("normed", "gate"), matmul("normed", "up"), NORM], [0, 0, 1]),
        ([NORM, matmul("normed", "gate"), matmul("gate", "up")], [0, 1, 1]),
        ([NORM, AttentionCombine(1, 4, 0)], [0, 0]),
    ],
)
def test_barriers_stand_where_a_hazard_is(ops: list[Op], barriers: list[int]) -> None:
    hazards = Hazards()
    assert [int(hazards.need_barrier(op)) for op in ops] == barriers
