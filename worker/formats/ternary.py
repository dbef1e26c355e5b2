"""Blocks of 256 weights that are -1, 0 or 1 times a scale: TQ1_0 and TQ2_0."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tplaunch.worker.formats.base import (
    BlockFormat,
    Bytes,
    Floats,
    Records,
    WeightFormat,
    bytes_of,
    fields,
    opaque,
)

BLOCK = 256
POWERS = np.array([[1], [3], [9], [27], [81]], np.uint8)


class TQ1(BlockFormat):
    """Five weights in a byte, as digits of base 3 of a fraction; the last 16 are four in a byte.

    Read by words, the scale first, as float32.
    """

    tile_columns = BLOCK
    block = np.dtype([("digits", opaque(52)), ("d", "<f2")])
    planes: Mapping[str, np.dtype[np.generic]] = {
        "words": np.dtype([("d", "<f4"), ("digits", opaque(52))]),
    }

    def _values(self, held: Mapping[str, Records]) -> Floats:
        digits = bytes_of(held["words"]["digits"])
        parts = (_digits(digits[:, :32], 5), _digits(digits[:, 32:48], 5), _digits(digits[:, 48:], 4))
        values = np.concatenate(parts, axis=1).astype(np.float32) - np.float32(1)
        scaled: Floats = values * held["words"]["d"][:, None]
        return scaled


def _digits(data: Bytes, count: int) -> Bytes:
    """The first digits of all bytes, then the second ones, and so on."""
    fractions = data[:, None] * POWERS[:count]  # the digits before are beyond the byte
    found: Bytes = (fractions.astype(np.uint16) * 3 >> 8).astype(np.uint8)
    return found.reshape(len(data), count * data.shape[1])


class TQ2(BlockFormat):
    """Two bits each."""

    tile_columns = BLOCK
    block = np.dtype([("quants", opaque(64)), ("d", "<f2")])
    planes: Mapping[str, np.dtype[np.generic]] = {"quants": opaque(64), "scales": np.dtype([("d", "<f4")])}

    def _values(self, held: Mapping[str, Records]) -> Floats:
        values = fields(bytes_of(held["quants"]), bits=2, run=32).astype(np.float32) - np.float32(1)
        scaled: Floats = values * held["scales"]["d"][:, None]
        return scaled


FORMATS: Mapping[str, WeightFormat] = {"TQ1_0": TQ1(), "TQ2_0": TQ2()}
