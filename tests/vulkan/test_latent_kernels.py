"""Kernels of latent attention (long heads, each head's own products, copies) against NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import Case, assert_close, limits_for, random_floats, random_matrix
from tests.vulkan.reused_device import ReusedDevice
from tests.vulkan.test_attention import POSITIONS, attention_case, attention_op
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.buffers.cuts import CHUNK, CUT
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.latent import CopyHeads, HeadParts, HeadProducts
from tplaunch.worker.ops.matrix import Matrix

SEEDS = st.integers(0, 999)


def check_attended(device: ReusedDevice, case: Case) -> None:
    results, expected = device.run(case), case.run(NumpyDevice(case.limits))
    assert_close({"attended": results["attended"]}, {"attended": expected["attended"]}, 2e-5)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@settings(max_examples=12)
@given(
    num_heads=st.integers(1, 9),
    key_quads=st.integers(65, 144),
    value_quads=st.integers(1, 128),
    positions=st.lists(POSITIONS, min_size=1, max_size=4).map(tuple),
    part_length=st.sampled_from([CUT, CHUNK]),
    window=st.sampled_from([0, 40]),
    seed=SEEDS,
)
def test_long_heads_whose_values_are_parts_of_keys(
    device: ReusedDevice,
    kv_type: str,
    num_heads: int,
    key_quads: int,
    value_quads: int,
    positions: tuple[int, ...],
    part_length: int,
    window: int,
    seed: int,
) -> None:
    op = attention_op(
        num_heads=num_heads,
        heads_per_kv_head=num_heads,
        key_length=4 * key_quads,
        value_length=4 * min(key_quads, value_quads),
        scale=0.04,
        value_cache="keys",
        window=window,
    )
    check_attended(device, attention_case(op, positions, part_length=part_length, kv_type=kv_type, seed=seed))


@pytest.mark.parametrize("value_length", [512, 4])
def test_long_heads_in_long_contexts(device: ReusedDevice, value_length: int) -> None:
    op = attention_op(
        num_heads=2, heads_per_kv_head=2, key_length=576, value_length=value_length, value_cache="keys"
    )
    op = dataclasses.replace(op, scale=0.05)
    check_attended(device, attention_case(op, (CHUNK - 1,), part_length=CHUNK, kv_type="f16"))


@pytest.mark.parametrize("weight_type", FORMATS)
@settings(max_examples=6)
@given(
    num_heads=st.integers(1, 5),
    length=st.integers(1, 40),
    tiles=st.integers(1, 3),
    gaps=st.tuples(st.integers(0, 8), st.integers(0, 40)),
    offset=st.integers(0, 9),
    rows=st.integers(1, 9),
    spare_rows=st.integers(0, 2),
    seed=SEEDS,
)
def test_head_products(
    device: ReusedDevice,
    weight_type: str,
    num_heads: int,
    length: int,
    tiles: int,
    gaps: tuple[int, int],
    offset: int,
    rows: int,
    spare_rows: int,
    seed: int,
) -> None:
    rng, columns = np.random.default_rng(seed), tiles * FORMATS[weight_type].tile_columns
    source = HeadParts("input", columns + 4 * gaps[0], 4)
    target = HeadParts("output", length + gaps[1], offset)
    capacity = rows + spare_rows
    matrix = Matrix("matrix", weight_type, num_heads * length, columns)
    arrays: dict[str, npt.NDArray[Any]] = {
        "input": random_floats(rng, capacity, 4 + num_heads * source.stride),
        "output": random_floats(rng, capacity, offset + num_heads * target.stride),
        "matrix": random_matrix(rng, matrix),
    }
    op = HeadProducts(matrix, num_heads, source, target)
    case = Case(limits_for(max_rows=capacity), (op,), arrays, rows, capacity)
    assert_close(device.run(case), case.run(NumpyDevice(case.limits)), 1e-4)


@settings(max_examples=12)
@given(
    num_heads=st.integers(1, 9),
    length=st.integers(1, 80),
    gaps=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    offsets=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    rows=st.integers(1, 9),
    spare_rows=st.integers(0, 2),
    seed=SEEDS,
)
def test_copy_heads(
    device: ReusedDevice,
    num_heads: int,
    length: int,
    gaps: tuple[int, int],
    offsets: tuple[int, int],
    rows: int,
    spare_rows: int,
    seed: int,
) -> None:
    rng, capacity = np.random.default_rng(seed), rows + spare_rows
    places = [
        HeadParts(name, length + gap, offset)
        for name, gap, offset in zip(("input", "output"), gaps, offsets, strict=True)
    ]
    arrays = {
        place.buffer: random_floats(rng, capacity, padded(place.offset + num_heads * place.stride))
        for place in places
    }
    case = Case(
        limits_for(max_rows=capacity), (CopyHeads(num_heads, length, *places),), arrays, rows, capacity
    )
    results, expected = device.run(case), case.run(NumpyDevice(case.limits))
    np.testing.assert_array_equal(results["output"], expected["output"])
