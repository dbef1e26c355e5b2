"""Work of programs, as data, and the pieces into which it is cut so that each submission is short."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from tests.models import LocalEngine, make_spec, write_llama
from tplaunch.coordinator.serving.micro_batches import MicroBatches
from tplaunch.worker.ops.attention import Attention
from tplaunch.worker.ops.common import Activate, MatMul, Op
from tplaunch.worker.ops.experts import ExpertMatMul, HeldExperts
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.programs.transformer import build_program
from tplaunch.worker.programs.work import most_row_keys, operations, pieces, total_operations
from tplaunch.worker.vulkan import api, faults
from tplaunch.worker.vulkan.budget import Budget

PROGRAM = Program(8, 2, ())
MATRIX = Matrix("m", "F32", 100, 64)
PRODUCT = MatMul(MATRIX, None, "normed", "qkv", 0, "rows")
ATTENTION = Attention("k", "v", 4, 2, 0, 2, 16, 12, 1.0)
EXPERTS = ExpertMatMul(MATRIX, None, "normed", "out", 0, 10, HeldExperts(3, 0, 10), gated=True)
SMALL = Activate(1, 0, "silu")


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (PRODUCT, 2 * 8 * 100 * 64),
        (dataclasses.replace(PRODUCT, rows="logit_rows"), 2 * 2 * 100 * 64),
        (ATTENTION, 2 * 8 * 4 * 28 * 500),
        (dataclasses.replace(ATTENTION, window=50), 2 * 8 * 4 * 28 * 50),
        (EXPERTS, 2 * 8 * 3 * 20 * 64),
        (SMALL, 0),
    ],
)
def test_operations_are_counted(op: Op, expected: float) -> None:
    assert operations(op, PROGRAM, 500) == expected


def test_a_segment_is_cut_before_its_budget_is_spent() -> None:
    one = operations(PRODUCT, PROGRAM, 0)
    segment = Segment((PRODUCT, SMALL, PRODUCT, PRODUCT, SMALL, PRODUCT), 0)
    for budget, lengths in [
        (math.inf, [6]),
        (4 * one, [6]),
        (2 * one, [3, 3]),
        (1.5 * one, [2, 1, 2, 1]),
        (0.1 * one, [1, 1, 1, 1, 1, 1]),
    ]:
        found = pieces(segment, PROGRAM, 0, budget)
        assert [len(piece) for piece in found] == lengths
        assert tuple(op for piece in found for op in piece) == segment.ops
        assert all(
            sum(operations(op, PROGRAM, 0) for op in piece) <= budget or len(piece) == 1 for piece in found
        )


def test_rows_and_keys_of_attention_are_bounded_by_what_an_op_may_compute() -> None:
    """An 8B model's 512 rows over 131,072 keys are 1e12 operations, which a slow card attends to for 4 s."""
    heads = dataclasses.replace(ATTENTION, num_heads=32, key_length=128, value_length=128)
    windowed = dataclasses.replace(heads, num_heads=64, window=4096)
    program = Program(4, 1, (Segment((PRODUCT, heads, windowed, ATTENTION), None),))
    most = Budget("integrated").of_an_op
    row_keys = most_row_keys(program, most)
    assert row_keys == int(2e11 / (2 * 32 * 256))
    batches = MicroBatches(1)
    batches.most_row_keys = row_keys
    for start in (0, 4096, 131_072):
        rows = batches.rows_within(start, row_keys)
        assert operations(heads, Program(rows, 1, ()), start + rows) <= most
        assert operations(heads, Program(rows + 1, 1, ()), start + rows + 1) > most
    assert batches.rows_within(131_072, row_keys) == 93
    assert most_row_keys(program, math.inf) == most_row_keys(Program(1, 1, ()), 1.0) == 0


def test_an_empty_segment_is_one_piece() -> None:
    assert pieces(Segment((), None), PROGRAM, 10, 1.0) == [()]


def test_a_prompt_of_a_large_model_never_takes_a_slow_gpu_long(tmp_path: Path) -> None:
    """256 rows of an 8B model's shape: no piece has more than 5e10 operations, unless one op has more."""
    spec = make_spec(
        embedding_length=4096,
        feed_forward_length=14336,
        num_heads=32,
        num_kv_heads=8,
        key_length=128,
        value_length=128,
        rope={"dimension": 128, "interleaved": False},
    )
    write_llama(tmp_path / "m.gguf", make_spec())
    rank = LocalEngine(tmp_path / "m.gguf", [1]).ranks[0]
    program = build_program(rank.spec, rank.share, rank.shards, 1, 256, 1)
    scale = spec.embedding_length / rank.spec.embedding_length  # of each side of a matrix
    large = dataclasses.replace(
        program,
        segments=tuple(
            Segment(tuple(scaled(op, scale) for op in segment.ops), segment.parity)
            for segment in program.segments
        ),
    )
    assert total_operations(large, 4096) > 1e11
    for segment in large.segments:
        found = pieces(segment, large, 4096, 5e10)
        assert len(found) > 1
        for piece in found:
            costs = [operations(op, large, 4096) for op in piece]
            assert sum(costs) <= 5e10 or len([cost for cost in costs if cost]) == 1


def scaled(op: Op, scale: float) -> Op:
    if not isinstance(op, MatMul):
        return op
    matrix = dataclasses.replace(
        op.matrix, rows=int(op.matrix.rows * scale), columns=int(op.matrix.columns * scale)
    )
    return dataclasses.replace(op, matrix=matrix)


def test_a_budget_follows_what_steps_take() -> None:
    """A device that is slower than its kind is given less at once; a CPU and short steps tell nothing."""
    slow = Budget("integrated")
    assert slow.operations == 5e10 and Budget("discrete").operations == 2e11
    slow.learn(9e9, 1e3)
    assert slow.operations == 5e10
    slow.learn(4e11, 10.0)
    assert slow.operations == 2e10
    slow.learn(4e11, 1.0)  # the slowest step counts
    assert slow.operations == 2e10
    assert slow.has_fallen_below(5e10) and not slow.has_fallen_below(4e10)
    cpu = Budget("cpu")
    cpu.learn(4e11, 1e3)
    assert cpu.operations == math.inf


def test_a_lost_device_tells_what_its_driver_reports() -> None:
    def query(device: object, counts: Any, info: Any) -> int:
        counts.addressInfoCount, counts.vendorInfoCount = 1, 1
        if info != api.ffi.NULL:
            info.description = b"page fault"
            info.pAddressInfos[0].addressType = api.vk.VK_DEVICE_FAULT_ADDRESS_TYPE_READ_INVALID_EXT
            info.pAddressInfos[0].reportedAddress = 0xABC000
            info.pVendorInfos[0].description = b"ring gfx timeout"
            info.pVendorInfos[0].vendorFaultCode = 7
        return int(api.vk.VK_SUCCESS)

    said = faults.lost_device("A card", "vkQueueSubmit", None, query)
    assert said.startswith("A card was lost (vkQueueSubmit): its driver gave up on it or reset it")
    assert said.endswith(
        "the driver reports: page fault, read invalid at 0xabc000, ring gfx timeout (fault 0x7)"
    )
    assert "reports" not in faults.lost_device("A card", "vkQueueSubmit", None, None)
    assert "reports" not in faults.lost_device("A card", "call", None, lambda *_: api.vk.VK_ERROR_UNKNOWN)
