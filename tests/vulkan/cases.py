"""Cases by which the kernel tests compare devices: of worker/checking/, with weights of any scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.blocks import tame_rows
from tplaunch.worker.checking.case import (
    Bytes,
    Case,
    filled_matrix,
    limits_for,
    page_aligned,
    random_cache,
    random_floats,
    write_bytes,
)
from tplaunch.worker.ops.matrix import Matrix

__all__ = [
    "Case",
    "assert_close",
    "limits_for",
    "page_aligned",
    "random_cache",
    "random_floats",
    "random_matrix",
    "write_bytes",
]


def assert_close(
    actual: Mapping[str, npt.NDArray[Any]], expected: Mapping[str, npt.NDArray[Any]], tolerance: float
) -> None:
    """All buffers alike, also where nothing was to be written. The tolerance is relative to its scale."""
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        scale = float(np.abs(values).max(initial=0)) or 1.0
        np.testing.assert_allclose(actual[name], values, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def random_matrix(rng: np.random.Generator, matrix: Matrix, largest_scale: float = 0.1) -> Bytes:
    """A buffer with random weights."""
    return filled_matrix(matrix, tame_rows(matrix.type, matrix.rows, matrix.columns, rng, largest_scale))
