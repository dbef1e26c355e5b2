"""The weights that kernels of processors compute with have the bits of those that NumPy widens."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.cpu.code import Kernel
from tplaunch.worker.cpu.compiling import compiled
from tplaunch.worker.cpu.kernels.formats import PARTS, SCALES_BYTES, WEIGHTS
from tplaunch.worker.cpu.kernels.parts_of_tiles import over_parts
from tplaunch.worker.cpu.target import host
from tplaunch.worker.cpu.team import function_at
from tplaunch.worker.formats import FORMATS

Floats = npt.NDArray[np.float32]
TILES = 3001  # so many that every quant meets every small scale, and no multiple of eight


def widening(weight_type: str) -> Callable[..., None]:
    """Makes a kernel that writes the weights of tiles as float32."""
    _, _, written = over_parts(WEIGHTS[weight_type].pair, FORMATS[weight_type].tile_columns == 256)
    prepare, per_tile = WEIGHTS[weight_type].prepare, FORMATS[weight_type].tile_columns // COLUMN_TILE

    def widen(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        num_parts: int,
        scales: int,
        output: int,
        thread: int,
        num_threads: int,
    ) -> None:
        for part in range(0, num_parts, PARTS):
            tile, count = part // per_tile, min(PARTS, num_parts - part)
            prepare(p0, p1, p2, p3, tile, count, scales)
            written(p0, p1, p2, p3, scales, tile, count, output + 128 * part)

    return widen


@pytest.mark.parametrize("weight_type", WEIGHTS)
def test_weights_have_the_bits_of_those_that_numpy_widens(weight_type: str) -> None:
    """Planes hold any bytes: also infinite scales, and such that are no numbers."""
    weight_format = FORMATS[weight_type]
    offsets = weight_format.plane_offsets(TILES, weight_format.tile_columns)
    random = np.random.default_rng(len(weight_type))
    memory = random.integers(0, 256, offsets[-1], np.uint8)
    if weight_format.codebook_bytes:
        weight_format.write_codebook([memory[: weight_format.codebook_bytes]])
    planes = [memory[start:stop] for start, stop in itertools.pairwise(offsets)]
    expected = weight_format.dequantize(planes, TILES, weight_format.tile_columns)
    found = np.zeros_like(expected)
    starts = [0, *offsets[:-1]] if weight_format.codebook_bytes else offsets[:-1]
    addresses = [int(memory.ctypes.data) + start for start in starts]
    scales, num_parts = np.zeros(SCALES_BYTES, np.uint8), expected.size // COLUMN_TILE
    planes_at = [*addresses, *[0] * (4 - len(addresses))]
    words = np.array([*planes_at, num_parts, scales.ctypes.data, found.ctypes.data], np.int64)
    kernel = Kernel("widen", *compiled(widening(weight_type), host()))
    function_at(kernel)(int(words.ctypes.data), 0, 1)
    is_number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), ~is_number)
    np.testing.assert_array_equal(found[is_number].view(np.uint32), expected[is_number].view(np.uint32))
    assert np.isfinite(expected).mean() > 0.9 and len(np.unique(expected[is_number])) > 100


def test_every_type_of_a_file_has_a_function() -> None:
    assert WEIGHTS.keys() == WEIGHT_TYPES.keys()
