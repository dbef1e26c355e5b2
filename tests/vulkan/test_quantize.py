"""Activations in fewer bits: the kernels against NumPy, and NumPy against what was to be represented."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vulkan.cases import Case, limits_for, random_floats
from tests.vulkan.reused_device import ReusedDevice
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.common import Quantize
from tplaunch.worker.ops.quantized import Floats, dequantize, quantize, row_words


def quantize_case(op: Quantize, surplus: int, rows: int, num_rows: int, magnitude: float, seed: int) -> Case:
    """Every tile has a magnitude of its own, and some are zero. `surplus` tiles are not the op's."""
    rng = np.random.default_rng(seed)
    length, count = op.columns + 32 * surplus, rows * max(op.used, 1)
    sizes = magnitude * rng.choice([0, 1e-3, 1, 100], (count, length // 32))
    values = random_floats(rng, count, length) * np.repeat(sizes, 32, axis=1).astype(np.float32)
    words = row_words(length, op.activations)
    arrays = {"input": values, op.output: rng.integers(0, 2**32, (count + 1, words), np.uint32)}
    return Case(limits_for(max_rows=rows), (op,), arrays, num_rows, rows)


def rounding_step(inputs: Floats, activations: str) -> npt.NDArray[np.floating[Any]]:
    """By how much neighbouring numbers differ at most: of a tile's integers, or of a row's float16."""
    if activations == "q8":
        largest = np.abs(inputs).reshape(inputs.shape[0], -1, 32).max(axis=2)
        return np.asarray(np.repeat(largest, 32, axis=1) / 127)
    largest = np.abs(inputs).max(axis=1, keepdims=True)
    return np.asarray(np.abs(inputs) * 2**-10 + largest * 2**-37)


def test_float16_is_the_nearest(device: ReusedDevice) -> None:
    """Numbers halfway between two, subnormal ones and the largest: the same bits as NumPy's."""
    halves = np.arange(0x7800, dtype=np.uint16).view(np.float16).astype(np.float32)
    below, above = halves[:-1], halves[1:]
    numbers = np.stack((below, (below + above) / 2, below + (above - below) * np.float32(0.51)), axis=1)
    values = np.zeros((1, -(-numbers.size // 32) * 32), np.float32)
    values[0, : numbers.size] = numbers.ravel()
    values[0, 1::2] *= -1
    assert 2**14 <= np.abs(values).max() < 2**15, "no scale but one"
    columns = values.shape[1]
    output = np.zeros((2, row_words(columns, "f16")), np.uint32)
    op = Quantize("input", columns, "rows", "f16")
    case = Case(limits_for(max_rows=1), (op,), {"input": values, op.output: output}, 1, 1)
    words = device.run(case)[op.output][0, : columns // 2]
    assert np.array_equal(
        np.ascontiguousarray(words).view(np.uint16), values.astype(np.float16)[0].view(np.uint16)
    )


@pytest.mark.parametrize("activations", ["q8", "f16"])
@settings(max_examples=40)
@given(
    tiles=st.integers(1, 90),
    surplus=st.integers(0, 2),
    rows=st.integers(1, 9),
    magnitude=st.sampled_from([1e-38, 1e-5, 1.0, 1e6, 1e30]),
    data=st.data(),
    seed=st.integers(0, 999),
)
def test_quantize(
    device: ReusedDevice,
    activations: str,
    tiles: int,
    surplus: int,
    rows: int,
    magnitude: float,
    data: st.DataObject,
    seed: int,
) -> None:
    columns = 32 * tiles
    num_rows = data.draw(st.integers(1, rows), "rows of the step")
    op = Quantize(
        "input", columns, "rows", activations, used=data.draw(st.integers(0, 3), "experts of a row")
    )
    case = quantize_case(op, surplus, rows, num_rows, magnitude, seed)
    actual, expected = device.run(case)[op.output], case.run(NumpyDevice(case.limits))[op.output]
    num_rows *= max(op.used, 1)
    inputs = case.arrays["input"][:num_rows, :columns]
    num_words = quantize(inputs, activations).shape[1]
    assert np.array_equal(actual[num_rows:], expected[num_rows:])
    assert np.array_equal(actual[:, num_words:], expected[:, num_words:])

    mine, reference = (dequantize(found[:num_rows], columns, activations) for found in (actual, expected))
    step = rounding_step(inputs, activations)
    # Devices may divide or round a little differently, so that one rounds up what another rounds down.
    assert (np.abs(mine - reference) <= 1.001 * step).all()
    assert (np.abs(reference - inputs) <= 0.501 * step + 1e-30).all()
