"""Activations as integers: 32 columns become 32 integers of eight bits and a float32 scale.

A row holds all its integers, four in a word, and then the scales; shaders/quantize.slang writes the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.plan import COLUMN_TILE

SMALLEST = np.float32(1e-30)  # what is less counts as zero: its inverse would be infinite
WORDS_ALIGNMENT = 4  # kernels load rows by 16 bytes

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]


def row_words(columns: int) -> int:
    """32-bit words of a row."""
    words = scales_word(columns) + columns // COLUMN_TILE
    return -(-words // WORDS_ALIGNMENT) * WORDS_ALIGNMENT


def scales_word(columns: int) -> int:
    """Where a row's scales start."""
    return columns // 4


def quantize(rows: Floats) -> Words:
    """[rows, columns] -> [rows, words], without what aligns rows. The largest of 32 becomes 127 or -127."""
    num_rows = rows.shape[0]
    tiles = rows.reshape(num_rows, -1, COLUMN_TILE)
    magnitudes = np.abs(tiles).max(axis=2, keepdims=True)
    is_zero = magnitudes < SMALLEST
    inverses = np.where(is_zero, np.float32(0), np.float32(127) / np.where(is_zero, 1, magnitudes))
    integers = np.rint(tiles * inverses).astype(np.int8)
    scales = np.where(is_zero, np.float32(0), magnitudes / np.float32(127))
    return np.hstack((integers.reshape(num_rows, -1).view(np.uint32), scales[..., 0].view(np.uint32)))


def dequantize(words: Words, columns: int) -> Floats:
    """[rows, words] -> float32 [rows, columns]."""
    start = scales_word(columns)
    integers = np.ascontiguousarray(words[:, :start]).view(np.int8)
    scales = np.ascontiguousarray(words[:, start : start + columns // COLUMN_TILE]).view(np.float32)
    return integers.astype(np.float32) * np.repeat(scales, COLUMN_TILE, axis=1)
