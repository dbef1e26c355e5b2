"""Activations as integers: the kernel against NumPy, and NumPy against what was to be represented."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import Case, limits_for, random_floats
from tests.vulkan.reused_device import ReusedDevice
from worker.numpy_device import NumpyDevice
from worker.ops import QUANTIZED, Quantize
from worker.quantized import dequantize, row_words


def quantize_case(tiles: int, surplus: int, rows: int, num_rows: int, magnitude: float, seed: int) -> Case:
    """Every tile has a magnitude of its own, and some are zero. `surplus` tiles are not the op's."""
    rng = np.random.default_rng(seed)
    length = 32 * (tiles + surplus)
    sizes = magnitude * rng.choice([0, 1e-3, 1, 100], (rows, tiles + surplus))
    values = random_floats(rng, rows, length) * np.repeat(sizes, 32, axis=1).astype(np.float32)
    arrays = {"input": values, QUANTIZED: rng.integers(0, 2**32, (rows + 1, row_words(length)), np.uint32)}
    return Case(limits_for(max_rows=rows), (Quantize("input", 32 * tiles, "rows"),), arrays, num_rows, rows)


@settings(max_examples=40)
@given(
    tiles=st.integers(1, 90),
    surplus=st.integers(0, 2),
    rows=st.integers(1, 9),
    magnitude=st.sampled_from([1e-36, 1e-5, 1.0, 1e6, 1e30]),
    data=st.data(),
    seed=st.integers(0, 999),
)
def test_quantize(
    device: ReusedDevice,
    tiles: int,
    surplus: int,
    rows: int,
    magnitude: float,
    data: st.DataObject,
    seed: int,
) -> None:
    num_rows = data.draw(st.integers(1, rows), "rows of the step")
    case = quantize_case(tiles, surplus, rows, num_rows, magnitude, seed)
    actual, expected = device.run(case)[QUANTIZED], case.run(NumpyDevice(case.limits))[QUANTIZED]
    words = 32 * tiles // 4 + tiles  # of a row that are written
    assert np.array_equal(actual[num_rows:], expected[num_rows:])
    assert np.array_equal(actual[:, words:], expected[:, words:])

    inputs = case.arrays["input"][:num_rows, : 32 * tiles]
    mine, reference = (dequantize(found[:num_rows], 32 * tiles) for found in (actual, expected))
    largest = np.abs(inputs).reshape(num_rows, tiles, 32).max(axis=2)
    step = np.repeat(largest, 32, axis=1) / 127
    # Devices may divide a little differently, so that one rounds up what another rounds down.
    assert (np.abs(mine - reference) <= 1.001 * step).all()
    assert (np.abs(mine - inputs) <= 0.501 * step + 1e-30).all()
