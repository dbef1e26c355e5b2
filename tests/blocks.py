"""Random blocks of every weight type, valid ones with whatever scales a test wants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.weights.random_weights import DEVIATION, random_blocks

Bytes = npt.NDArray[np.uint8]
Scales: TypeAlias = Callable[[int], npt.NDArray[np.float16]]  # so many of them
# Where a block's float16 scales lie. Any other byte of a block may hold anything.
SCALES: dict[str, tuple[int, ...]] = {
    **{"F16": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,)},
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)},
    **{"IQ4_NL": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,)},
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0,)),
}
EXTREMES = np.array([0, -0.0, 6e-8, -6e-8, 6.1e-5, 65504, -65504, 1], np.float16)  # subnormal to largest


def unit_columns(weight_type: str) -> int:
    """A row on a device is a multiple of these."""
    return max(COLUMN_TILE, WEIGHT_TYPES[weight_type].block_columns)


def extreme_rows(weight_type: str, rows: int, columns: int, random: np.random.Generator) -> Bytes:
    """Every quant, and float16 scales from subnormal to the largest, but finite."""

    def scales(count: int) -> npt.NDArray[np.float16]:
        halves = random.integers(0, 2**16, count, np.uint16)
        halves[(halves & 0x7C00) == 0x7C00] &= 0x83FF  # no infinity, no NaN
        halves[: len(EXTREMES)] = EXTREMES.view(np.uint16)[:count]
        return random.permutation(halves).view(np.float16)

    return _rows(weight_type, rows, columns, random, scales)


def tame_rows(
    weight_type: str, rows: int, columns: int, random: np.random.Generator, largest_scale: float = 0.1
) -> Bytes:
    """Scales of one sign and size, to keep sums in bounds; weights without scales of size 1."""

    def scales(count: int) -> npt.NDArray[np.float16]:
        return random.uniform(largest_scale / 10, largest_scale, count).astype(np.float16)

    if weight_type in ("F32", "F16", "BF16"):
        values = random.standard_normal((rows, columns)).astype(np.float32)
        if weight_type == "F16":
            return values.astype(np.float16).view(np.uint8)
        halves = values.view(np.uint16)[:, 1::2]
        return np.ascontiguousarray(halves).view(np.uint8) if weight_type == "BF16" else values.view(np.uint8)
    raw = _rows(weight_type, rows, columns, random, scales)
    if weight_type == "MXFP4":  # whose scales are exponents
        exponents = raw.reshape(-1, WEIGHT_TYPES["MXFP4"].block_bytes)[:, 0]
        exponents[:] = random.choice([0, 1, *range(118, 126)], len(exponents))
    return raw


def model_rows(weight_type: str, rows: int, columns: int, random: np.random.Generator) -> Bytes:
    """Weights around 0 whose products with rows of size 1 are of size 1."""
    kind = WEIGHT_TYPES[weight_type]
    start, num_blocks = int(random.integers(0, 999)), rows * columns // kind.block_columns
    blocks = random_blocks(kind, start + num_blocks).reshape(-1, kind.block_bytes)[start:].copy()
    for offset in SCALES.get(weight_type, ()):
        scales = blocks[:, offset : offset + 2].copy().view(np.float16) / DEVIATION / math.sqrt(columns)
        blocks[:, offset : offset + 2] = scales.astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, kind.row_bytes(columns))


def _rows(weight_type: str, rows: int, columns: int, random: np.random.Generator, scales: Scales) -> Bytes:
    kind = WEIGHT_TYPES[weight_type]
    raw = random.integers(0, 256, (rows, kind.row_bytes(columns)), np.uint8)
    blocks = raw.reshape(raw.size // kind.block_bytes, kind.block_bytes)
    for offset in SCALES.get(weight_type, ()):
        blocks[:, offset : offset + 2] = scales(len(blocks)).view(np.uint8).reshape(-1, 2)
    if weight_type == "IQ1_M":  # four pieces of its scale are the upper halves of these bytes
        pieces = scales(len(blocks)).view(np.uint16)[:, None] >> np.arange(0, 16, 4, dtype=np.uint16) & 15
        blocks[:, 49::2] = blocks[:, 49::2] & 15 | pieces.astype(np.uint8) << 4
    return raw
