"""The cache gives back what it holds, whatever its type, and quantises as its description says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LIMITS, examples
from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.worker.numpy.cache import DTYPES, NumpyCache, quantized

ERROR = {"f32": 0.0, "f16": 2.0**-11, "q8_0": 0.51 / 127}  # of the largest element of a block


def test_every_type_has_sizes_and_a_dtype() -> None:
    assert DTYPES.keys() == KV_TYPES.keys() == ERROR.keys()
    for name, dtype in DTYPES.items():
        assert np.dtype(dtype).itemsize == KV_TYPES[name].element_bytes


@pytest.mark.parametrize(
    ("kv_type", "length", "nbytes"),
    [("f16", 100, 200), ("f32", 100, 400), ("q8_0", 64, 72), ("q8_0", 80, 108), ("q8_0", 4, 36)],
)
def test_bytes_of_a_cell(kv_type: str, length: int, nbytes: int) -> None:
    assert KV_TYPES[kv_type].nbytes(7, length) == 7 * nbytes


@pytest.mark.parametrize("kv_type", KV_TYPES)
@examples(30)
@given(
    length=st.integers(1, 100).map(lambda quads: 4 * quads),
    num_kv_heads=st.integers(1, 3),
    block_length=st.integers(1, 5),
    num_positions=st.integers(1, 12),
    seed=st.integers(0, 999),
)
def test_what_is_written_is_read(
    kv_type: str, length: int, num_kv_heads: int, block_length: int, num_positions: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    limits = dataclasses.replace(LIMITS, kv_type=kv_type, block_length=block_length, num_blocks=12)
    size = KV_TYPES[kv_type].nbytes(12 * num_kv_heads * block_length, length)
    cache = NumpyCache(np.zeros(size, np.uint8), limits, num_kv_heads, length)
    values = rng.standard_normal((num_kv_heads, num_positions, length)).astype(np.float32)
    blocks = rng.permutation(12)[: -(-num_positions // block_length)].astype(np.uint32)
    for position in range(num_positions):
        cache.write(blocks[position // block_length], position % block_length, values[:, position])
    read = cache.read(blocks, num_positions)
    assert read.shape == values.shape and read.dtype == np.float32
    assert np.abs(read - values).max() <= ERROR[kv_type] * np.abs(values).max()


def test_quants_are_the_nearest_and_halves_go_to_the_even_one() -> None:
    values = np.array(
        [127, 0.5, 1.5, -2.5, -0.49, 3.51, *[0] * 27, 8], np.float32
    )  # a block and two elements
    quants, scales = quantized(values, 32)
    assert quants.shape == (64,) and scales.tolist() == [1, np.float32(8 / 127)]
    assert quants[:6].tolist() == [127, 0, 2, -2, 0, 4]
    assert quants[32:34].tolist() == [0, 127] and not quants[34:].any()


@pytest.mark.parametrize("largest", [0.0, 1e-38, 1e-31])
def test_a_block_of_next_to_nothing_is_zeros(largest: float) -> None:
    quants, scales = quantized(np.full((2, 32), largest, np.float32), 32)
    assert not quants.any() and not scales.any()
