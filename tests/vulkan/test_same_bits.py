"""A row's results are the same bits whatever rows are computed beside it, on every driver."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import unit_columns
from tests.models import LocalEngine
from tests.same_bits import KINDS, WRITERS, Bench, limits_of
from tests.same_bits import assert_same_bits as assert_same_logits
from tests.vulkan.cases import Case, limits_for, random_cache, random_floats
from tests.vulkan.conftest import Opener
from tests.vulkan.reused_device import ReusedDevice
from tests.vulkan.test_attention import alibis, attention_op
from tests.vulkan.test_matmul import matmul_case
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.buffers.cuts import CHUNK, CUT, NO_SHORT_CUTS, ShortCuts, parts_of
from tplaunch.worker.buffers.stack_parts import WHOLE
from tplaunch.worker.buffers.table import weight_buffers
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.attention import Attention, AttentionCombine
from tplaunch.worker.ops.common import QUANTIZED
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.variants import FREQUENT

BLOCK_LENGTH = 32
Row = tuple[int, int]  # its sequence and its position


class Sequences:
    """Keys, values and a query of every position, which lie in shuffled blocks."""

    def __init__(self, op: Attention, lengths: list[int], kv_type: str, sinks: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        counts = [-(-length // BLOCK_LENGTH) for length in lengths]
        self._op, self._sinks, self._longest = op, sinks, max(lengths)
        self._starts = np.concatenate(([0], np.cumsum(counts))).tolist()
        self._num_blocks = self._starts[-1]
        self._tables = tuple(rng.permutation(self._num_blocks).tolist())
        cells = self._num_blocks * op.num_kv_heads * BLOCK_LENGTH
        self._kv_type = kv_type
        self._arrays = {
            "keys": random_cache(rng, kv_type, cells, op.key_length),
            "sinks": 2 * random_floats(rng, op.num_heads),
        }
        if not op.value_in_key:
            self._arrays["values"] = random_cache(rng, kv_type, cells, op.value_length)
        self._queries = 3 * random_floats(rng, len(lengths), max(lengths), op.num_heads * op.key_length)

    def attended(
        self,
        device: ReusedDevice,
        rows: list[Row],
        part_length: int,
        short_cuts: ShortCuts = NO_SHORT_CUTS,
        finishes: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Computes these rows in one step; `finishes` without an operation for what attention can do."""
        op, num_rows = self._op, len(rows)
        positions = tuple(position for _, position in rows)
        slots = parts_of(np.array(positions), part_length, short_cuts).total
        combination = AttentionCombine(op.num_heads, op.value_length, 0, "sinks" if self._sinks else None)
        case = Case(
            limits_for(
                context_length=self._longest,
                num_blocks=self._num_blocks,
                num_window_blocks=self._num_blocks,
                max_sequences=len(self._starts),
                block_length=BLOCK_LENGTH,
                max_rows=num_rows,
                kv_type=self._kv_type,
            ),
            (dataclasses.replace(op, finish=combination),) if finishes else (op, combination),
            {
                **self._arrays,
                "query": np.stack([self._queries[row] for row in rows]),
                "attention_sums": np.full(slots * op.num_heads * op.value_length, np.nan, np.float32),
                "attention_scales": np.full(slots * op.num_heads * 2, 1e9, np.float32),
                "attended": np.zeros((num_rows, padded(op.num_heads * op.value_length)), np.float32),
            },
            num_rows,
            num_rows,
            positions=positions,
            table_starts=tuple(self._starts[sequence] for sequence, _ in rows),
            tables=self._tables,
            window_tables=self._tables,
            part_length=part_length,
            short_cuts=short_cuts,
        )
        results: npt.NDArray[np.float32] = device.run(case)["attended"]
        return results


def assert_same_bits(
    device: ReusedDevice,
    op: Attention,
    rows: list[Row],
    kv_type: str,
    part_length: int,
    sinks: bool = False,
    seed: int = 0,
    short_cuts: ShortCuts = NO_SHORT_CUTS,
) -> None:
    """All rows in one step give what each gives alone, with a workgroup for each cut.

    So they do where attention finishes them.
    """
    lengths = [0] * (max(sequence for sequence, _ in rows) + 1)
    for sequence, position in rows:
        lengths[sequence] = max(lengths[sequence], position + 1)
    sequences = Sequences(op, lengths, kv_type, sinks, seed)
    ways = (False, True) if part_length == CHUNK >= max(lengths) else (False,)
    together = [sequences.attended(device, rows, part_length, short_cuts, way) for way in ways]
    assert np.isfinite(together[0]).all() and together[0].any()
    for index, row in enumerate(rows):
        alone = sequences.attended(device, [row], short_cuts.least, short_cuts)[0]
        for attended in together:
            assert np.array_equal(attended[index].view(np.uint32), alone.view(np.uint32)), f"row {row}"


@st.composite
def cases(draw: st.DrawFn) -> tuple[Attention, list[Row]]:
    """Some heads of a rank, and neighbouring rows of a few sequences in any order."""
    group = draw(st.sampled_from([1, 2, 3, 4, 7]))
    first_head, num_heads = draw(st.integers(0, group - 1)), draw(st.integers(1, 4))
    length = draw(st.sampled_from([12, 64, 80, 128, 192, 256]))
    op = attention_op(
        num_heads=num_heads,
        num_kv_heads=-(-(first_head + num_heads) // group),
        first_head=first_head,
        heads_per_kv_head=group,
        key_length=length,
        value_length=draw(st.sampled_from([length, length, 64])),
        scale=length**-0.5,
        window=draw(st.sampled_from([0, 0, 17, 256, 500, 1000])),
        chunked=draw(st.booleans()),
        softcap=draw(st.sampled_from([0.0, 0.0, 20.0])),
        alibi=draw(st.none() | alibis(num_heads)),
    )
    rows: list[Row] = []
    for sequence in range(draw(st.integers(1, 3))):
        last = draw(st.integers(0, 300) | st.integers(0, 2600))
        rows += [(sequence, position) for position in range(max(0, last - draw(st.integers(0, 5))), last + 1)]
    return op, draw(st.permutations(rows))


@pytest.mark.parametrize("kv_type", KV_TYPES)
@settings(max_examples=8)
@given(case=cases(), part_length=st.sampled_from([CUT, CHUNK]), sinks=st.booleans(), seed=st.integers(0, 99))
def test_attention(
    device: ReusedDevice,
    kv_type: str,
    case: tuple[Attention, list[Row]],
    part_length: int,
    sinks: bool,
    seed: int,
) -> None:
    assert_same_bits(device, *case, kv_type, part_length, sinks, seed)


@pytest.mark.parametrize("part_length", [CUT, CHUNK])
def test_attention_over_several_chunks(device: ReusedDevice, part_length: int) -> None:
    op = attention_op(num_heads=2, heads_per_kv_head=2, key_length=8, value_length=8)
    rows = [(0, 2 * CHUNK - 1), (0, 2 * CHUNK), (0, 2 * CHUNK + 300), (1, CHUNK - 1), (1, CHUNK), (1, 40)]
    assert_same_bits(device, op, rows, "f16", part_length)


@pytest.mark.parametrize("part_length", [CUT, CHUNK])
def test_latent_attention(device: ReusedDevice, part_length: int) -> None:
    op = attention_op(
        num_heads=3, heads_per_kv_head=3, key_length=576, value_length=512, value_cache="keys", scale=0.05
    )
    rows = [(0, 255), (0, 256), (0, 700), (1, 3), (1, 4)]
    assert_same_bits(device, op, rows, "f16", part_length)


@pytest.mark.parametrize("activations", ["f32", "q8"])
@pytest.mark.parametrize("weight_type", FREQUENT)
def test_products(device: ReusedDevice, weight_type: str, activations: str) -> None:
    """One row has kernels of its own."""
    if activations == "q8" and not FORMATS[weight_type].has_integers:
        return
    columns = unit_columns(weight_type) * max(2, 320 // unit_columns(weight_type))
    case = matmul_case(Matrix("matrix", weight_type, 19, columns), 7, 7, 0, activations=activations)
    together = device.run(case)["output"]
    for row in (0, 4, 6):
        rolled = {
            name: np.roll(case.arrays[name], -row, axis=0)
            for name in ("input", QUANTIZED)
            if name in case.arrays
        }
        alone = dataclasses.replace(case, arrays=case.arrays | rolled, num_rows=1, rows=1)
        assert np.array_equal(device.run(alone)["output"][0, :19], together[row, :19])


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_matrices_in_several_buffers(open_device: Opener, tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / "model.gguf")

    def logits(most: int | None) -> npt.NDArray[np.float32]:
        def opened(limits: Limits) -> VulkanDevice:
            device = open_device("lavapipe", limits)
            assert device.max_buffer_bytes == device.info.max_allocation  # 2 GiB
            device.max_buffer_bytes = most or device.max_buffer_bytes
            return device

        engine = LocalEngine(tmp_path / "model.gguf", [1.0], limits_of(kind), opened)
        assert ("output@2.weight" in weight_buffers(engine.ranks[0].shards, most or WHOLE)) == bool(most)
        bench, random = Bench(engine, limits_of(kind)), np.random.default_rng(0)
        return np.concatenate([bench.alone(list(range(length)), random) for length in (21, 1)])

    whole, cut = logits(None), logits(2500)
    assert np.array_equal(whole.view(np.uint32), cut.view(np.uint32)) and whole.any()


@KINDS
@pytest.mark.parametrize(
    ("driver", "num_ranks"), [("lavapipe", 1), ("lavapipe", 3), ("mesa", 1), ("mesa", 3), ("swiftshader", 1)]
)
def test_logits(open_device: Opener, tmp_path: Path, driver: str, num_ranks: int, kind: str) -> None:
    """Whole models give the same logits; SwiftShader takes its time to compile on each rank."""
    WRITERS[kind](tmp_path / "model.gguf")
    limits = limits_of(kind)
    engine = LocalEngine(
        tmp_path / "model.gguf", [1.0] * num_ranks, limits, lambda limits: open_device(driver, limits)
    )
    bench = Bench(engine, limits)
    for seed, lengths in enumerate([(530, 40, 3), (2, 561)]):
        assert_same_logits(bench, lengths, seed)
