"""Blocks of 32 weights with a scale, and some with a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tplaunch.coordinator.split.plan import padded
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


class Blocks32(BlockFormat):
    """Float16 scale, perhaps minimum; perhaps a word of fifth bits; quants. `zero` is the quant that means 0.

    The low halves of 16 bytes of quants are the first 16 weights, the high halves the others.
    """

    has_integers = True

    def __init__(
        self, quant_bytes: int, *, zero: int = 0, has_minimum: bool = False, has_fifth_bits: bool = False
    ) -> None:
        self._zero = np.float32(zero)
        parts = {"scales": opaque(4 if has_minimum else 2), "quants": opaque(quant_bytes)}
        if has_fifth_bits:
            parts = {"scales": parts["scales"], "words": opaque(4), "quants": parts["quants"]}
        self.block = np.dtype(list(parts.items()))
        self.planes = {name: parts[name] for name in ("quants", "words", "scales") if name in parts}

    def widen(self, raw: Bytes, columns: int) -> Floats:
        """Takes the values from the file's blocks, whose fields are those of the planes."""
        blocks, held = raw.view(self.block).reshape(-1), padded(columns)
        fields_of_planes = {name: blocks[name] for name in self.planes}
        return self._finite_or_not(fields_of_planes, len(raw), held)[:, :columns]

    def _values(self, held: Mapping[str, Records]) -> Floats:
        scales = bytes_of(held["scales"]).view("<f2").astype(np.float32)
        values = (self._integers(held).astype(np.float32) - self._zero) * scales[:, :1]
        return values + scales[:, 1:] if scales.shape[1] == 2 else values

    def _integers(self, held: Mapping[str, Records]) -> Bytes:
        """[blocks, 32]"""
        integers = fields(bytes_of(held["quants"]), bits=4, run=16)
        if "words" in held:
            integers = integers | fields(bytes_of(held["words"]), bits=1, run=1) << np.uint8(4)
        return integers


class Q8(Blocks32):
    """Signed bytes."""

    def _values(self, held: Mapping[str, Records]) -> Floats:
        scales = bytes_of(held["scales"]).view("<f2").astype(np.float32)
        return bytes_of(held["quants"]).view(np.int8).astype(np.float32) * scales


FORMATS: Mapping[str, WeightFormat] = {
    "Q4_0": Blocks32(16, zero=8),
    "Q4_1": Blocks32(16, has_minimum=True),
    "Q5_0": Blocks32(16, zero=16, has_fifth_bits=True),
    "Q5_1": Blocks32(16, has_minimum=True, has_fifth_bits=True),
    "Q8_0": Q8(32),
}
