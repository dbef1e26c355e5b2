"""Activations in fewer bits. q8: 32 columns are integers of eight bits and a scale. f16: a row has one scale.

A row holds all its values, several in a word, and then its float32 scales; shaders/quantize.slang writes the
same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.plan import COLUMN_TILE

WORDS_ALIGNMENT = 4  # kernels load rows by 16 bytes
SMALLEST = np.float32(1e-30)  # q8: what is less counts as zero, for its inverse would be infinite
# f16: the exponent of a row's largest magnitude, and the least that is not zero. 65504 is float16's last.
LARGEST_EXPONENT, SMALLEST_EXPONENT = 14, 15 - 127

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]


def scales_word(columns: int, activations: str) -> int:
    """Returns the word at which a row's scales start."""
    return columns // {"q8": 4, "f16": 2}[activations]


def row_words(columns: int, activations: str) -> int:
    """32-bit words of a row."""
    num_scales = columns // COLUMN_TILE if activations == "q8" else 1
    words = scales_word(columns, activations) + num_scales
    return -(-words // WORDS_ALIGNMENT) * WORDS_ALIGNMENT


def quantize(rows: Floats, activations: str) -> Words:
    """[rows, columns] -> [rows, words], without what aligns rows."""
    values, scales = _to_q8(rows) if activations == "q8" else to_float16(rows)
    return np.hstack((values.reshape(rows.shape[0], -1).view(np.uint32), scales.view(np.uint32)))


def _to_q8(rows: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """The largest of 32 columns becomes 127 or -127."""
    tiles = rows.reshape(rows.shape[0], -1, COLUMN_TILE)
    magnitudes = np.abs(tiles).max(axis=2, keepdims=True)
    is_zero = magnitudes < SMALLEST
    inverses = np.where(is_zero, np.float32(0), np.float32(127) / np.where(is_zero, 1, magnitudes))
    scales = np.where(is_zero, np.float32(0), magnitudes / np.float32(127))
    return np.rint(tiles * inverses).astype(np.int8), scales[..., 0]


def to_float16(rows: Floats) -> tuple[npt.NDArray[np.float16], Floats]:
    """Scaled by a power of two, so that nothing but float16 rounds and nothing overflows."""
    _, above = np.frexp(np.abs(rows).max(axis=1, keepdims=True, initial=0))  # the exponent plus one
    exponents = np.where(above > SMALLEST_EXPONENT, LARGEST_EXPONENT + 1 - above, 0)
    is_zero = above <= SMALLEST_EXPONENT
    values = np.where(is_zero, np.float32(0), np.ldexp(rows, exponents)).astype(np.float16)
    return values, np.where(is_zero, np.float32(0), np.ldexp(np.float32(1), -exponents))


def dequantize(words: Words, columns: int, activations: str) -> Floats:
    """[rows, words] -> float32 [rows, columns]."""
    start = scales_word(columns, activations)
    values = np.ascontiguousarray(words[:, :start])
    if activations == "f16":
        scale = np.ascontiguousarray(words[:, start : start + 1]).view(np.float32)
        return values.view(np.float16).astype(np.float32) * scale
    scales = np.ascontiguousarray(words[:, start : start + columns // COLUMN_TILE]).view(np.float32)
    return values.view(np.int8).astype(np.float32) * np.repeat(scales, COLUMN_TILE, axis=1)
