"""Splitting changes nothing: the shards' products, and whole models, give what one rank alone gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import tame_rows, unit_columns
from tests.models import (
    FACTORS,
    LIMITS,
    WRITABLE_TYPES,
    Floats,
    LocalEngine,
    examples,
    make_spec,
    tensor_infos,
    tensor_shapes,
    write_llama,
)
from tests.steps import Rows, step_of
from tplaunch.collectives.arena import private_arena
from tplaunch.coordinator.gguf.parts import GgufModel, read_model
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import RankShare, Span, make_plan, padded
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.stacks import Stack
from tplaunch.worker.buffers.step import StepLayout
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.weights.model_file import ModelFile, load_stack

NAMES = sorted(WRITABLE_TYPES)
TYPES = st.sampled_from(NAMES)


def assert_products(found: Floats, activations: Floats, weights: Floats) -> None:
    """Sums of products in float32 err by a part of the terms' sizes, however much of these cancels."""
    wide, matrix = activations.astype(np.float64), weights.T.astype(np.float64)
    errors = np.abs(found - wide @ matrix)
    assert (errors <= 1e-6 * (np.abs(wide) @ np.abs(matrix)) + 1e-30).all(), errors.max()


class OneProduct:
    """A file with one random matrix, multiplied shard by shard on NumpyDevices."""

    def __init__(self, folder: Path, name: str, rows: int, columns: int, weight_type: str, seed: int) -> None:
        self.name, self.random = name, np.random.default_rng(seed)
        kind = gguf.GGMLQuantizationType[weight_type]
        raw = tame_rows(weight_type, rows, columns, self.random)
        path = folder / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tensor(name, raw, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        self.weights: Floats = gguf.quants.dequantize(raw, kind)
        self.file: GgufModel = read_model(path)

    def product(self, shard: Shard, activations: Floats) -> Floats:
        """activations [rows, shard's padded columns] x the shard -> [rows, shard rows], on a device."""
        device, num_rows = NumpyDevice(LIMITS), len(activations)
        matrix = Matrix(self.name, shard.type, len(shard.rows), shard.padded_columns)
        sizes = {"input": shard.padded_columns, "output": matrix.rows}
        buffers = {name: Buffer(num_rows * size * 4, Placement.UPLOAD, size) for name, size in sizes.items()}
        buffers["step"] = Buffer(StepLayout(LIMITS).num_words * 4)
        device.create_buffers({**buffers, self.name: Buffer(Stack(self.name, (shard,)).nbytes)})
        stack = Stack(self.name, (shard,))
        for _ in load_stack(device, ModelFile(self.file.origin.parts), stack, self.file.tensors):
            pass
        device.attach_partials(private_arena(1, 4096), 0, 1)
        device.view("step").view(np.uint32)[0] = num_rows
        device.view("input").view(np.float32)[:] = activations.reshape(-1)
        program = Program(
            num_rows, 0, (Segment((MatMul(matrix, None, "input", "output", 0, "rows"),), None),)
        )
        device.prepare(program)
        device.submit(program, num_rows)
        device.finish(0)
        return device.view("output").view(np.float32).reshape(num_rows, matrix.rows).copy()


def whole_blocks(weight_type: str, columns: int) -> int:
    """At least so many that a file can hold a row of them."""
    block = WEIGHT_TYPES[weight_type].block_columns
    return -(-columns // block) * block


def shards_of(plan: tuple[RankShare, ...], name: str, weight_type: str, spec: Any) -> list[Shard]:
    kind = name.split(".", 2)[2]
    tensors = tensor_infos(tensor_shapes(spec), {kind: weight_type})
    return [rank_shards(spec, share, tensors)[name] for share in plan]


WEIGHTS = st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.0, 7.0]), min_size=1, max_size=8).filter(any)


@given(
    weight_type=TYPES,
    columns=st.integers(1, 150),
    rows=st.integers(1, 9),
    weights=WEIGHTS,
    seed=st.integers(0, 2**32),
)
@examples(120)
def test_row_parallel_products_sum_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    weight_type: str,
    columns: int,
    rows: int,
    weights: list[float],
    seed: int,
) -> None:
    columns = whole_blocks(weight_type, columns)
    width, name = 4 * rows, "blk.0.ffn_down.weight"
    spec = make_spec(num_layers=1, embedding_length=width, feed_forward_length=columns)
    one = OneProduct(tmp_path_factory.mktemp("row"), name, width, columns, weight_type, seed)
    activations = one.random.standard_normal((3, columns)).astype(np.float32)
    plan = make_plan(spec, weights)
    total = np.zeros((3, width), np.float32)
    for share, shard in zip(plan, shards_of(plan, name, weight_type, spec), strict=True):
        own = share.layers[0].feed_forward
        inputs = np.zeros((3, shard.padded_columns), np.float32)
        inputs[:, shard.column_offset : shard.column_offset + len(own)] = activations[:, own.start : own.stop]
        total += one.product(shard, inputs)
    assert_products(total, activations, one.weights)


@given(
    weight_type=TYPES,
    columns=st.integers(1, 40),
    rows=st.integers(1, 70),
    weights=WEIGHTS,
    seed=st.integers(0, 2**32),
)
@examples(80)
def test_column_parallel_products_concatenate_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    weight_type: str,
    columns: int,
    rows: int,
    weights: list[float],
    seed: int,
) -> None:
    width, name = 4 * columns, "blk.0.ffn_up.weight"
    width = whole_blocks(weight_type, width)
    spec = make_spec(num_layers=1, embedding_length=width, feed_forward_length=rows)
    one = OneProduct(tmp_path_factory.mktemp("column"), name, rows, width, weight_type, seed)
    activations = one.random.standard_normal((3, width)).astype(np.float32)
    plan = make_plan(spec, weights)
    inputs = np.zeros((3, padded(width)), np.float32)
    inputs[:, :width] = activations
    parts = [
        one.product(shard, inputs) for shard in shards_of(plan, name, weight_type, spec) if len(shard.rows)
    ]
    assert_products(np.concatenate(parts, axis=1), activations, one.weights)


def test_a_large_shard_is_loaded_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks must land where one would, in every plane."""
    for weight_type in NAMES:
        unit = unit_columns(weight_type)
        one = OneProduct(tmp_path, "w", 50, 3 * unit, weight_type, 5)
        shard = Shard("w", weight_type, Span(3, 50), Span(unit, 3 * unit), 0)
        inputs = one.random.standard_normal((2, 2 * unit)).astype(np.float32)
        whole = one.product(shard, inputs)
        monkeypatch.setattr("tplaunch.worker.weights.model_file.CHUNK_BYTES", 700)
        np.testing.assert_array_equal(one.product(shard, inputs), whole)
        np.testing.assert_allclose(whole, inputs @ one.weights[3:50, unit:].T, rtol=1e-4, atol=1e-4)
        monkeypatch.undo()


# Whole models: any number of ranks computes what one computes.

MIXED = {
    "attn_q.weight": "Q8_0", "attn_v.weight": "F16", "attn_output.weight": "Q4_0",
    "ffn_down.weight": "Q8_0", "ffn_up.weight": "Q4_0", "token_embd.weight": "Q8_0",
}  # fmt: skip
TOKENS = [1, 5, 47, 0, 9, 9, 23, 11, 30, 2, 17, 8, 46, 3, 3, 21, 40, 12, 6, 35, 29]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biases, mixed types, a head's values of another length than its keys, all blocks cut through."""
    path = tmp_path_factory.mktemp("models") / "mixed.gguf"
    lengths = {"key_length": 8, "value_length": 16, "feed_forward_length": 96}
    spec = make_spec(num_heads=6, num_kv_heads=3, **lengths, rope=FACTORS)
    write_llama(path, spec, MIXED, biases=True)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """F32, tied, FFN columns that are prime."""
    path = tmp_path_factory.mktemp("models") / "plain.gguf"
    write_llama(path, make_spec(feed_forward_length=61, num_heads=4, num_kv_heads=1), tied=True)
    return path


def logits_of(engine: LocalEngine, tokens: list[int] = TOKENS) -> Floats:
    return all_logits(engine, tokens)


def assert_close(found: Floats, expected: Floats) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.fixture(scope="module")
def expected_mixed(mixed: Path) -> Floats:
    logits = logits_of(LocalEngine(mixed))
    assert logits.shape == (len(TOKENS), 48)
    assert np.ptp(logits, axis=1).min() > 1  # not the same for every token: a comparison means something
    return logits


@pytest.mark.parametrize(
    "weights",
    [[1] * n for n in range(2, 9)]
    + [[3, 1], [1, 0], [0, 1], [5, 1, 1], [0, 2, 0, 1], [1, 9, 1, 1, 0], [0.1, 8, 0.1]],
    ids=str,
)  # fmt: skip
def test_ranks_together_compute_what_one_computes(
    mixed: Path, expected_mixed: Floats, weights: list[float]
) -> None:
    assert_close(logits_of(LocalEngine(mixed, weights)), expected_mixed)


@pytest.mark.parametrize("weights", [[1] * n for n in (2, 3, 5, 8)] + [[7, 1], [1, 0, 4, 2]], ids=str)
def test_ranks_together_compute_what_one_computes_when_tied(plain: Path, weights: list[float]) -> None:
    assert_close(logits_of(LocalEngine(plain, weights)), logits_of(LocalEngine(plain)))


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 2], [1] * 8, [0, 2, 0, 1]], ids=str)
def test_two_phases_give_the_same_bits(mixed: Path, weights: list[float]) -> None:
    one_shot, two_phase = LocalEngine(mixed, weights), LocalEngine(mixed, weights, two_phase=True)
    assert logits_of(two_phase).tobytes() == logits_of(one_shot).tobytes()


@pytest.mark.parametrize("kind", NAMES)
def test_more_ranks_than_anything_in_every_type(tmp_path: Path, kind: str) -> None:
    """Ranks without heads, without columns, without vocabulary rows."""
    width = unit_columns(kind)
    spec = make_spec(
        embedding_length=width,
        num_heads=4,
        num_kv_heads=1,
        key_length=width // 4,
        value_length=width // 4,
        feed_forward_length=width,
        vocabulary_size=5,
    )
    types = {
        f"{name}.weight": kind
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "output")
    }
    write_llama(tmp_path / "m.gguf", spec, types)
    tokens = [1, 4, 0, 2]
    expected = logits_of(LocalEngine(tmp_path / "m.gguf"), tokens)
    assert_close(logits_of(LocalEngine(tmp_path / "m.gguf", [1] * 8), tokens), expected)


KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "output")


@pytest.mark.parametrize("first", range(0, len(NAMES), len(KINDS)))
def test_a_model_of_many_types_computes_the_same_on_any_number_of_ranks(tmp_path: Path, first: int) -> None:
    """The model has blocks of all sizes, which ranks cut through."""
    names = [NAMES[(first + i) % len(NAMES)] for i in range(len(KINDS))]
    types = {f"{kind}.weight": name for kind, name in zip(KINDS, names, strict=True)}
    types["token_embd.weight"] = names[-1]
    spec = make_spec(
        embedding_length=256,
        num_heads=4,
        num_kv_heads=2,
        key_length=16,
        value_length=64,
        feed_forward_length=512,
    )
    write_llama(tmp_path / "m.gguf", spec, types)
    expected = logits_of(LocalEngine(tmp_path / "m.gguf"))
    assert np.ptp(expected, axis=1).min() > 1
    for weights in ([1, 1], [3, 1, 1], [1] * 5):
        assert_close(logits_of(LocalEngine(tmp_path / "m.gguf", weights)), expected)


@pytest.mark.parametrize("weights", [[1], [2, 1, 1]], ids=str)
@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_prefill_in_chunks_computes_the_same(
    mixed: Path, expected_mixed: Floats, max_rows: int, weights: list[float]
) -> None:
    limits = dataclasses.replace(LIMITS, max_rows=max_rows, max_logit_rows=min(max_rows, 2))
    # Only the last row gets logits: most steps end early.
    requests = Requests(LocalEngine(mixed, weights, limits))
    request = requests.add(TOKENS, SamplingParams(temperature=0, max_tokens=1))
    while not request.is_finished:
        requests.step()
    assert request.outputs[0].token_ids == [int(expected_mixed[-1].argmax())]
    assert_close(all_logits(LocalEngine(mixed, weights, limits), TOKENS), expected_mixed)


@pytest.mark.parametrize("weights", [[1], [1, 2]], ids=str)
def test_sequences_side_by_side_in_shuffled_blocks(mixed: Path, weights: list[float]) -> None:
    """Three sequences at different places, their rows in one step, their blocks strewn over the cache."""
    prompts = [TOKENS[:11], TOKENS[5:12], TOKENS[3:4]]
    alone = [logits_of(LocalEngine(mixed), prompt) for prompt in prompts]
    engine = LocalEngine(mixed, weights)
    blocks = np.random.default_rng(3).permutation(LIMITS.num_blocks).tolist()
    tables = [[blocks.pop() for _ in range(-(-len(prompt) // LIMITS.block_length))] for prompt in prompts]
    done, number = [0, 0, 0], 0
    while any(count < len(prompt) for count, prompt in zip(done, prompts, strict=True)):
        number += 1
        rows = [  # up to 3, 4, 5 rows of each, the last sequence first
            (index, position)
            for index in (2, 1, 0)
            for position in range(done[index], min(done[index] + 3 + index, len(prompts[index])))
        ]
        runs = [
            Rows(prompts[index][done[index] : done[index] + 3 + index], done[index], seat=2 * index)
            for index in (2, 1, 0)
            if done[index] < len(prompts[index])
        ]
        told = {2 * index: table for index, table in enumerate(tables)} if number == 1 else ()
        logits = engine.logits(step_of(number, runs, range(len(rows)), told))
        for row, (index, position) in zip(logits, rows, strict=True):
            assert_close(row, alone[index][position])
            done[index] += 1


@pytest.mark.parametrize("cut", [1, 3, 8])
@pytest.mark.parametrize("weights", [[1], [1, 2]], ids=str)
def test_attention_in_cuts_computes_the_same(
    mixed: Path, expected_mixed: Floats, monkeypatch: pytest.MonkeyPatch, weights: list[float], cut: int
) -> None:
    """Short cuts, so that rows have many slots; what lay there before must not show."""
    monkeypatch.setattr("tplaunch.worker.buffers.cuts.CUT", cut)
    engine = LocalEngine(mixed, weights)
    for rank in engine.ranks:
        rank.device.view("attention_sums").view(np.float32)[:] = np.nan
    assert_close(logits_of(engine), expected_mixed)
    header = engine.ranks[0].device.view("step").view(np.uint32)
    assert header[2] == cut


def test_logit_rows_may_come_in_any_order(mixed: Path, expected_mixed: Floats) -> None:
    tokens = TOKENS[:8]
    wanted = [5, 0, 7, 5]
    step = step_of(1, [Rows(tokens)], wanted, {0: [3, 1]})
    logits = LocalEngine(mixed, [1, 1]).logits(step)
    assert_close(logits, expected_mixed[wanted])
