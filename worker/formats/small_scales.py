"""Scales of six bits, as files pack them, become bytes: several at once, in words of 32 and 64 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.worker.formats.base import opaque

Words = npt.NDArray[Any]  # of 32 or 64 bits, unsigned
# The lowest bits of each byte of 64 bits, and of 32.
NIBBLES, PAIRS_OF_BITS, SIXTH_BITS = 0x0F0F0F0F0F0F0F0F, 0x0303030303030303, 0x2020202020202020
FOUR_NIBBLES, FOUR_OF_SIX_BITS, FOUR_UPPER_BITS = 0x0F0F0F0F, 0x3F3F3F3F, 0x30303030


def words_of(packed: npt.NDArray[np.void]) -> Words:
    """[...] of some bytes -> [words of 32 bits, ...]."""
    held = np.ascontiguousarray(packed).view("<u4").reshape(*packed.shape, -1)
    words: Words = np.ascontiguousarray(np.moveaxis(held, -1, 0))
    return words


def scales_and_minima(packed: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """12 bytes -> eight pairs of a scale and a minimum. Their upper two bits lie above those of others."""
    scales, minima, rest = words_of(packed)
    first = spread(scales & FOUR_OF_SIX_BITS) | spread(minima & FOUR_OF_SIX_BITS) << 8
    later_scales = rest & FOUR_NIBBLES | scales >> 2 & FOUR_UPPER_BITS
    later_minima = rest >> 4 & FOUR_NIBBLES | minima >> 2 & FOUR_UPPER_BITS
    return _bytes(first, spread(later_scales) | spread(later_minima) << 8)


def sixteen_scales(packed: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """12 bytes -> 16 scales less 32: of each the lower four bits, of one byte two; then the upper ones."""
    first, second, rest = (word.astype(np.uint64) for word in words_of(packed))
    low = first | second << 32
    early, late = (rest | rest << 30) & PAIRS_OF_BITS, (rest >> 4 | rest << 26) & PAIRS_OF_BITS
    return _bytes(less_32(low & NIBBLES | early << 4), less_32(low >> 4 & NIBBLES | late << 4))


def eight_scales(low: npt.NDArray[np.void], high: Words) -> npt.NDArray[np.void]:
    """4 bytes and the upper bits of all in one number -> eight scales less 32, two of each byte."""
    (nibbles,) = words_of(low)
    upper: Words = high.astype(np.uint64)
    upper = (upper | upper << 24) & 0x000000FF000000FF
    upper = (upper | upper << 12) & 0x000F000F000F000F
    upper = (upper | upper << 6) & PAIRS_OF_BITS
    lower = spread(nibbles & FOUR_NIBBLES) | spread(nibbles >> 4 & FOUR_NIBBLES) << 8
    return _bytes(less_32(lower | upper << 4))


def spread(words: Words) -> Words:
    """[...] of 32 bits -> 64 bits, the bytes at every other place."""
    wide: Words = words.astype(np.uint64)
    wide = (wide | wide << 16) & 0x0000FFFF0000FFFF
    wide = (wide | wide << 8) & 0x00FF00FF00FF00FF
    return wide


def less_32(words: Words) -> Words:
    """Takes 32 from each byte of six bits in 64: the sixth turns, and then says what is above it."""
    turned = words ^ SIXTH_BITS
    sign = turned & SIXTH_BITS
    return turned | sign << 1 | sign << 2


def _bytes(*words: Words) -> npt.NDArray[np.void]:
    """Words of 64 bits, [...] each -> [...] of all their bytes."""
    joined = np.stack(words, axis=-1).astype("<u8", copy=False)
    return joined.view(opaque(8 * len(words)))[..., 0]
