"""Kernels over queries and keys, up to the cache (clamp, norms, rope), against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import Case, assert_close, limits_for, random_cache, random_floats
from tests.vulkan.reused_device import ReusedDevice
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.attention import (
    AttentionHeads,
    Clamp,
    HeadNorm,
    HeadSums,
    RopeCache,
    Rotate,
    Rotation,
    RowSums,
)
from tplaunch.worker.ops.common import Op

SEEDS = st.integers(0, 999)
Floats = np.typing.NDArray[np.float32]
HEADS = st.builds(
    lambda num_heads, num_kv_heads, quads, gap: AttentionHeads(
        num_heads, num_kv_heads, 4 * quads, 4 * quads + min(gap, 4 * quads)
    ),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 64),
    st.sampled_from([0, 0, 4, 256]),
)


def qkv_case(
    op: Op,
    heads: AttentionHeads,
    num_rows: int,
    spare_rows: int,
    seed: int,
    num_slots: int = 1,
    slot: int = 0,
) -> Case:
    """Behind the keys lie values, which no op here touches."""
    rng = np.random.default_rng(seed)
    rows = num_rows + spare_rows
    arrays = {
        "qkv": 1 + random_floats(rng, rows, heads.first_value + 8),
        "rope": random_floats(rng, rows, 2 * 256),
        **{
            name: random_floats(rng, heads.num_heads * 2 * heads.key_length)
            for name in ("query weight", "key weight", "query bias", "key bias")
        },
    }
    partials = random_floats(rng, 2, num_slots, 4 * rows)
    partials[..., 1::2] = np.abs(partials[..., 1::2]) + 100  # sums of squares
    limits = limits_for(max_rows=rows)
    return Case(limits, (op,), arrays, num_rows, rows, partials=partials, write_slot=slot)


def check(device: ReusedDevice, case: Case) -> None:
    assert_close(device.run(case), case.run(NumpyDevice(case.limits)), 1e-5)


@settings(max_examples=10)
@given(
    heads=HEADS, columns=st.integers(1, 64), rows=st.integers(1, 7), spare_rows=st.integers(0, 2), seed=SEEDS
)
def test_clamp(
    device: ReusedDevice, heads: AttentionHeads, columns: int, rows: int, spare_rows: int, seed: int
) -> None:
    op = Clamp(min(4 * columns, heads.first_value), 0.75)
    check(device, qkv_case(op, heads, rows, spare_rows, seed))


@settings(max_examples=30)
@given(
    heads=HEADS,
    kind=st.sampled_from(["rms", "layer"]),
    has_weight=st.booleans(),
    has_bias=st.booleans(),
    stride=st.sampled_from([0, 1, 2]),
    num_ranks=st.integers(0, 3),
    rows=st.integers(1, 7),
    spare_rows=st.integers(0, 2),
    seed=SEEDS,
)
def test_head_norm(
    device: ReusedDevice,
    heads: AttentionHeads,
    kind: str,
    has_weight: bool,
    has_bias: bool,
    stride: int,
    num_ranks: int,
    rows: int,
    spare_rows: int,
    seed: int,
) -> None:
    """With ranks, by the sums that they have left."""
    op = HeadNorm(
        heads,
        1e-6,
        "query weight" if has_weight else None,
        "key weight" if has_weight else None,
        kind,
        stride * heads.key_length,
        "query bias" if has_bias else None,
        "key bias" if has_bias else None,
        RowSums(1, 100, 60) if num_ranks else None,
    )
    case = qkv_case(op, heads, rows, spare_rows, seed, max(1, num_ranks))
    for name in ("key weight", "key bias"):
        case.arrays[name] = np.resize(case.arrays[name], heads.num_kv_heads * 2 * heads.key_length)
    check(device, case)


@settings(max_examples=15)
@given(
    heads=HEADS,
    skips=st.booleans(),
    num_slots=st.integers(1, 3),
    parity=st.integers(0, 1),
    rows=st.integers(1, 20),
    spare_rows=st.integers(0, 2),
    seed=SEEDS,
)
def test_head_sums(
    device: ReusedDevice,
    heads: AttentionHeads,
    skips: bool,
    num_slots: int,
    parity: int,
    rows: int,
    spare_rows: int,
    seed: int,
) -> None:
    op = HeadSums(heads, skips, parity)
    check(device, qkv_case(op, heads, rows, spare_rows, seed, num_slots, slot=num_slots - 1))


def test_no_heads_leave_sums_of_zero(device: ReusedDevice) -> None:
    heads = AttentionHeads(0, 0, 32, 32)
    case = qkv_case(HeadSums(heads, False, 0), heads, 3, 0, 0)
    assert not device.run(case)["partials"][0].any()
    check(device, case)


@settings(max_examples=15)
@given(data=st.data(), heads=HEADS, rows=st.integers(1, 7), spare_rows=st.integers(0, 2), seed=SEEDS)
def test_rope_in_place(
    device: ReusedDevice, data: st.DataObject, heads: AttentionHeads, rows: int, spare_rows: int, seed: int
) -> None:
    dimension = 2 * data.draw(st.integers(1, heads.key_length // 2))
    start, offset = data.draw(st.integers(0, heads.key_length - dimension)), data.draw(st.integers(0, 9))
    rotation = Rotation(2 * offset, dimension, data.draw(st.booleans()), start)
    check(device, qkv_case(Rotate(heads, rotation), heads, rows, spare_rows, seed))


@pytest.mark.parametrize("kv_type", KV_TYPES)
@settings(max_examples=15)
@given(data=st.data(), seed=SEEDS)
def test_rope_cache(device: ReusedDevice, kv_type: str, data: st.DataObject, seed: int) -> None:
    rng = np.random.default_rng(seed)
    key_length, value_length = (4 * data.draw(st.integers(1, 64)) for _ in range(2))
    rope_dimension = 2 * data.draw(st.integers(0, key_length // 2))
    rope_offset, surplus = 2 * data.draw(st.integers(0, 3)), data.draw(st.integers(0, 5))
    num_heads, num_kv_heads = (data.draw(st.integers(1, 5)) for _ in range(2))
    block_length = data.draw(st.integers(1, 5) | st.just(100))
    gap = data.draw(st.sampled_from([0, 0, 4, key_length]))  # behind each query
    num_rows, spare_rows = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 2))
    rows, blocks_per_row = num_rows + spare_rows, 3
    tables = rng.permutation(num_rows * blocks_per_row)
    limits = limits_for(
        num_blocks=tables.size,
        num_window_blocks=tables.size,
        block_length=block_length,
        max_sequences=num_rows,
        max_rows=rows,
        kv_type=kv_type,
        context_length=blocks_per_row * block_length,
    )
    heads = AttentionHeads(num_heads, num_kv_heads, key_length, key_length + gap)
    start = data.draw(st.integers(0, key_length - rope_dimension))
    rotation = Rotation(rope_offset, rope_dimension, data.draw(st.booleans()), start)
    cells = tables.size * num_kv_heads * block_length
    angles = rng.uniform(-10, 10, (rows, (rope_offset + rope_dimension) // 2 + 1))
    arrays = {
        "rope": np.stack((np.cos(angles), np.sin(angles)), axis=2).reshape(rows, -1).astype(np.float32),
        "qkv": random_floats(rng, rows, heads.first_value + num_kv_heads * value_length + surplus),
        "query": random_floats(rng, rows, num_heads * key_length),
        "keys": random_cache(rng, kv_type, cells, key_length),
        "values": random_cache(rng, kv_type, cells, value_length),
    }
    temperature = data.draw(st.none() | st.just(rope_offset + rope_dimension))
    windowed = data.draw(st.booleans())
    op = RopeCache("keys", "values", heads, value_length, rotation, temperature, windowed)
    case = Case(
        limits,
        (op,),
        arrays,
        num_rows,
        rows,
        positions=tuple(rng.integers(0, blocks_per_row * block_length, num_rows)),
        table_starts=tuple(range(0, tables.size, blocks_per_row)),
        tables=tuple(tables[::-1] if windowed else tables),
        window_tables=tuple(tables if windowed else tables[::-1]),
    )
    results, expected = device.run(case), case.run(NumpyDevice(limits))
    # NumPy and the device may round a rotated key to neighbours of each other: float16 ones, or quants.
    for name, length in (("keys", key_length), ("values", value_length)) if kv_type == "q8_0" else ():
        start = KV_TYPES[kv_type].element_plane_bytes(cells, length)
        quants, scales = split_planes(results.pop(name), start)
        expected_quants, expected_scales = split_planes(expected.pop(name), start)
        difference = np.abs(quants - expected_quants)
        assert difference.max() <= 1 and np.count_nonzero(difference) <= 2 + difference.size // 1000
        np.testing.assert_allclose(scales, expected_scales, rtol=1e-5)
    assert_close(results, expected, 1e-3 if kv_type == "f16" else 1e-5)


def split_planes(cache: np.typing.NDArray[np.uint8], start: int) -> tuple[Floats, Floats]:
    """Quants and scales."""
    return cache[:start].view(np.int8).astype(np.float32), cache[start:].view(np.float32)
