"""Matrices that are larger than a buffer may be are cut into several, and compute the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import Floats, LocalEngine, examples, make_spec, tensor_infos, tensor_shapes
from tests.same_bits import WRITERS, Bench, limits_of
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import Span, make_plan
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.stack_parts import WHOLE, in_parts, part_names
from tplaunch.worker.buffers.stacks import Stack, stack_shards
from tplaunch.worker.buffers.table import weight_buffers
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.transformer import build_program

LEAST = 1500  # bytes: most matrices of the small models have more


def logits_of(path: Path, kind: str, weights: list[float], most: int) -> tuple[Floats, list[str]]:
    """Logits of 20 rows and then of one, and the names of the buffers of weights."""

    def small(limits: Limits) -> NumpyDevice:
        device = NumpyDevice(limits)
        device.max_buffer_bytes = most
        return device

    limits = dataclasses.replace(limits_of(kind), kv_type="f32")  # float16 would round apart what is close
    engine = LocalEngine(path, weights, limits, small)
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 48, length).tolist() for length in (20, 1)]
    bench = Bench(engine, engine.limits)
    logits = np.concatenate([bench.alone(tokens, random) for tokens in sequences])
    return logits, [name for rank in engine.ranks for name in weight_buffers(rank.shards, most)]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0]], ids=["1", "2"])
@pytest.mark.parametrize("kind", WRITERS)
def test_models_compute_the_same(tmp_path: Path, kind: str, weights: list[float]) -> None:
    path = tmp_path / "model.gguf"
    WRITERS[kind](path)
    whole, names = logits_of(path, kind, weights, WHOLE)
    assert not any("@" in name for name in names)
    cut, names = logits_of(path, kind, weights, LEAST)
    assert len([name for name in names if "@1." in name]) > 3
    np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-5 * float(np.abs(whole).max()))


def stack_of(lengths: list[int], kinds: list[str], type: str = "F32", columns: int = 64) -> dict[str, Stack]:
    """A stack of matrices with so many rows each, and their biases."""
    shards: dict[str, Shard] = {}
    for kind, length in zip(kinds, lengths, strict=True):
        name = f"blk.0.{kind}"
        shards[name + ".weight"] = Shard(name + ".weight", type, Span(7, 7 + length), Span(0, columns), 0)
        shards[name + ".bias"] = Shard(name + ".bias", "F32", Span(0, 1), Span(3, 3 + length), 0)
    return stack_shards(shards)


@given(lengths=st.lists(st.integers(1, 700), min_size=3, max_size=3), most=st.integers(300, 100_000))
@examples(100)
def test_parts_are_a_stacks_rows_in_order(lengths: list[int], most: int) -> None:
    whole = stack_of(lengths, ["attn_q", "attn_k", "attn_v"])
    name = "blk.0.attn_q+attn_k+attn_v"
    found = in_parts(whole, most)
    names = part_names(found, name)
    assert [f"{part}{suffix}" for part in names for suffix in (".weight", ".bias")] == sorted(
        found, key=lambda each: (names.index(each.rpartition(".")[0]), each.endswith("bias"))
    )
    rows: list[tuple[str, int]] = []
    biases: list[tuple[str, int]] = []
    for part in names:
        stack, bias = found[part + ".weight"], found[part + ".bias"]
        assert stack.nbytes <= most or len(names) == 1
        for shard in stack.shards:
            rows += [(shard.tensor, row - 7) for row in range(shard.rows.start, shard.rows.stop)]
        for shard in bias.shards:
            tensor = shard.tensor.replace("bias", "weight")
            biases += [(tensor, column - 3) for column in range(shard.columns.start, shard.columns.stop)]
    expected = [
        (f"blk.0.{kind}.weight", row)
        for kind, length in zip(("attn_q", "attn_k", "attn_v"), lengths, strict=True)
        for row in range(length)
    ]
    assert rows == biases == expected


@given(length=st.integers(2, 700), most=st.integers(1000, 100_000))
@examples(50)
def test_gates_stay_with_their_ups(length: int, most: int) -> None:
    found = in_parts(stack_of([length] * 2, ["ffn_gate", "ffn_up"]), most)
    stop = 7
    for part in part_names(found, "blk.0.ffn_gate+ffn_up"):
        gates, ups = (shard.rows for shard in found[part + ".weight"].shards)
        assert gates == ups and gates.start == stop
        stop = gates.stop
    assert stop == 7 + length


@pytest.mark.parametrize(("weight_type", "parts"), [("F16", 4), ("Q8_0", 2), ("Q4_K", 2)])
def test_the_output_matrix_of_256k_rows(weight_type: str, parts: int) -> None:
    """A device allocates 1 GiB at once: each part is multiplied into its own columns of the logits."""
    rows, gibibyte = 256 * 1024, 1 << 30
    spec = make_spec(embedding_length=7168, vocabulary_size=rows)
    tensors = tensor_infos(tensor_shapes(spec), {"output.weight": weight_type})
    share = make_plan(spec, [1.0])[0]
    shards = rank_shards(spec, share, tensors)
    buffers = weight_buffers(shards, gibibyte)
    found = [buffer.nbytes for name, buffer in buffers.items() if name.startswith("output@")]
    assert len(found) == parts and max(found) <= gibibyte and max(found) < 1.01 * min(found)
    program = build_program(spec, share, shards, 1, 1, 1, ProgramOptions(max_buffer=gibibyte))
    ops = [op for segment in program.segments for op in segment.ops if op.writes == {"logits"}]
    assert len(ops) == parts
    column = 0
    for op in ops:
        assert isinstance(op, MatMul) and op.output_offset == column and column % 128 == 0
        column += op.columns
    assert column == rows


def test_experts_are_cut_by_experts(tmp_path: Path) -> None:
    WRITERS["experts"](tmp_path / "model.gguf")
    engine = LocalEngine(tmp_path / "model.gguf")
    rank = engine.ranks[0]
    stacks = in_parts(stack_shards(rank.shards), 4 * 2 * 40 * 32 * 2)
    parts = [stacks[name + ".weight"] for name in part_names(stacks, "blk.0.ffn_gate_exps+ffn_up_exps")]
    experts = [[shard.experts for shard in part.shards] for part in parts]
    assert experts == [[Span(start, start + 2)] * 2 for start in (0, 2, 4)]


def test_what_no_product_reads_stays_whole() -> None:
    whole = stack_of([100], ["ssm_conv1d"])
    assert in_parts(whole, 1000) == whole
    one_row = stack_of([5], ["ffn_up"])
    assert in_parts(one_row, 100) == one_row  # not a single row would fit
    assert dataclasses.replace(whole["blk.0.ssm_conv1d.weight"]).nbytes > 1000
