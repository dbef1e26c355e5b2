"""Numbers become float16 by rounding to the nearest, halves to the even one, and subnormal ones survive.

Each product here has one term, a power of two times what was rounded, so that the sum has all of its bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.vulkan.cases import random_cache
from tests.vulkan.reused_device import ReusedDevice
from tests.vulkan.test_attention import attention_case, attention_op
from tests.vulkan.test_matmul import matmul_case
from tplaunch.worker.checking.case import filled_matrix
from tplaunch.worker.ops.common import QUANTIZED
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.quantized import quantize
from tplaunch.worker.vulkan.variants import FAMILIES

TILE, WEIGHTS = 32, 512  # columns of a block, and as many rows of the matrix as blocks

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def matrices(device: ReusedDevice) -> ReusedDevice:
    """The device, where its kernels multiply cooperative matrices."""
    if not device.has_matrices:
        pytest.skip(f"{device.info.name} has no cooperative matrices (make test-matrices)")
    return device


def assert_bits(found: Floats, exact: Floats) -> None:
    """All are the nearest float16, the even one of two; and there are numbers that tell the ways apart."""
    nearest = exact.astype(np.float16)
    toward_zero = np.where(np.abs(nearest) > np.abs(exact), np.nextafter(nearest, np.float16(0)), nearest)
    other = np.where(nearest > exact, np.nextafter(nearest, np.float16(-np.inf)), nearest)
    other = np.where(nearest < exact, np.nextafter(nearest, np.float16(np.inf)), other)
    ties = np.abs(exact - nearest) == np.abs(exact - other)
    assert (toward_zero != nearest).mean() > 0.2 and (ties & (nearest != exact)).sum() > 20
    assert ((np.abs(nearest) < 2.0**-14) & (nearest != 0)).sum() > 100, "none is subnormal"
    assert np.array_equal(found, nearest.astype(np.float32))


@pytest.mark.parametrize("variant", FAMILIES["matrices_q8_0"], ids=lambda variant: variant.kernel)
def test_weights_of_matrices(matrices: ReusedDevice, variant: Any) -> None:
    """Each row of the step takes one column: q8_0's integers times scales from subnormal ones on."""
    rng = np.random.default_rng(3)
    halves = rng.integers(1, 0x3C00, WEIGHTS, np.uint16)
    halves[: WEIGHTS // 2] = rng.integers(1, 0x0800, WEIGHTS // 2)
    halves[WEIGHTS // 2 :: 4] |= 1  # odd, which three times gives numbers in the middle of two
    scales, quants = halves.view(np.float16), rng.integers(-127, 128, (WEIGHTS, TILE), np.int8)
    quants[:, ::4] = 3
    raw = np.concatenate((scales.view(np.uint8).reshape(WEIGHTS, 2), quants.view(np.uint8)), axis=1)
    case = matmul_case(
        Matrix("matrix", "Q8_0", WEIGHTS, TILE), TILE, TILE, seed=0, activations="f16", of_prompts=True
    )
    case.arrays["matrix"] = filled_matrix(Matrix("matrix", "Q8_0", WEIGHTS, TILE), raw)
    words = quantize(np.eye(TILE, dtype=np.float32), "f16")
    case.arrays[QUANTIZED][:TILE, : words.shape[1]] = words
    found = matrices.run(case, variant)["output"][:TILE, :WEIGHTS]
    assert_bits(found, (quants * scales.astype(np.float32)[:, None]).T)


def test_values_that_attention_multiplies(matrices: ReusedDevice) -> None:
    """A row that sees one key gives its value: q8_0's integers times a float32 scale."""
    length, rows = 64, 96
    op = attention_op(key_length=length, value_length=length, activations="f16")
    case = attention_case(op, (0,) * rows, block_length=1, kv_type="q8_0", finishes=True)
    cells = random_cache(np.random.default_rng(4), "q8_0", rows, length)
    quants = cells[: rows * length].view(np.int8).reshape(rows, 2, length // 2)
    scales = cells[rows * length :].view(np.float32).reshape(rows, 2)
    scales[::2] *= np.float32(2.0**-15)
    scales[1::2] = np.float32(2.0**-12 * (1 + 2.0**-10))
    quants[1::2] |= 3
    case.arrays["values"] = cells
    exact = (quants * scales[:, :, None]).reshape(rows, length)
    found = matrices.run(case)["attended"][:, :length]
    assert_bits(found, exact[list(case.tables)])


def test_subnormal_values_of_a_cache(device: ReusedDevice) -> None:
    """They are read as they are; the row sees nothing else."""
    length, rows = 64, 8
    case = attention_case(
        attention_op(key_length=length, value_length=length), (0,) * rows, block_length=1, kv_type="f16"
    )
    halves = np.random.default_rng(5).integers(0, 0x0400, rows * length, np.uint16)
    case.arrays["values"] = halves.view(np.float16)
    found = device.run(case)["attended"][:, :length]
    expected = halves.view(np.float16).astype(np.float32).reshape(rows, length)
    assert np.array_equal(found, expected[list(case.tables)])
