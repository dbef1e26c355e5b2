"""Blocks of 256 weights with a small scale for every 16 or 32 in units of a common one: Q2_K to Q6_K.

Quants lie as in the file. Small scales of six bits become bytes; they and the common scales make one plane of
five words a block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.worker.formats.base import (
    BlockFormat,
    Floats,
    Records,
    WeightFormat,
    bytes_of,
    fields,
    opaque,
)
from tplaunch.worker.formats.small_scales import scales_and_minima, sixteen_scales

BLOCK = 256


class KQuant(BlockFormat):
    """Low and high bits of quants as (bits, run): see base.fields. `zero` is the quant that means 0."""

    tile_columns = BLOCK
    has_integers = True

    def __init__(
        self,
        block: list[tuple[Any, ...]],
        scales: list[tuple[Any, ...]],
        *,
        low: tuple[int, int],
        high: tuple[int, int] | None = None,
        zero: int = 0,
    ) -> None:
        self._low, self._high, self._zero = low, high, np.float32(zero)
        self.block = np.dtype(block)
        names = ["quants", "highs"] if high else ["quants"]
        self.planes = {**{name: self.block[name] for name in names}, "scales": np.dtype(scales)}

    def _values(self, held: Mapping[str, Records]) -> Floats:
        integers = fields(bytes_of(held["quants"]), *self._low)
        if self._high:
            integers = integers | fields(bytes_of(held["highs"]), *self._high) << np.uint8(self._low[0])
        scales, minima = self._scales(held["scales"])
        count, groups = scales.shape
        quants = (integers.astype(np.float32) - self._zero).reshape(count, groups, BLOCK // groups)
        values: Floats = quants * scales[..., None]
        return values if minima is None else values - minima[..., None]

    @abstractmethod
    def _scales(self, held: Records) -> tuple[Floats, Floats | None]:
        """Returns the factors of the quants, and what is then subtracted, [blocks, groups of weights]."""


class WithMinima(KQuant):
    """Q4_K, Q5_K: a scale and a minimum for 32 weights, eight of each in 12 bytes; `d` holds their units."""

    def _derived(self, blocks: Records) -> npt.NDArray[np.generic]:
        return scales_and_minima(blocks["packed"])

    def _scales(self, held: Records) -> tuple[Floats, Floats | None]:
        units = bytes_of(held["d"]).view("<f2").astype(np.float32)
        small = bytes_of(held["small"]).reshape(-1, 8, 2).astype(np.float32)
        return units[:, :1] * small[..., 0], units[:, 1:] * small[..., 1]


class Q2K(KQuant):
    """A scale and a minimum for 16 weights in one byte."""

    def _scales(self, held: Records) -> tuple[Floats, Floats | None]:
        units = bytes_of(held["d"]).view("<f2").astype(np.float32)
        small = bytes_of(held["small"])
        return units[:, :1] * (small & 15).astype(np.float32), units[:, 1:] * (small >> 4).astype(np.float32)


class Signed(KQuant):
    """Q6_K: a signed scale for 16 weights."""

    def _scales(self, held: Records) -> tuple[Floats, Floats | None]:
        units = held["d"].astype(np.float32, copy=False)
        return units[:, None] * bytes_of(held["small"]).view(np.int8).astype(np.float32), None


class Q3K(Signed):
    """The same; 16 scales in 12 bytes, 32 more than they are."""

    def _derived(self, blocks: Records) -> npt.NDArray[np.generic]:
        return sixteen_scales(blocks["packed"])


UNITS = ("d", opaque(4))  # of scales and of minima, two float16
PACKED = ("packed", opaque(12))
PAIRS = [("small", opaque(16)), UNITS]
FORMATS: Mapping[str, WeightFormat] = {
    "Q2_K": Q2K(
        [("small", opaque(16)), ("quants", opaque(64)), UNITS], [("small", opaque(16)), UNITS], low=(2, 32)
    ),
    "Q3_K": Q3K(
        [("highs", opaque(32)), ("quants", opaque(64)), PACKED, ("d", "<f2")],
        [("small", opaque(16)), ("d", "<f4")],
        low=(2, 32),
        high=(1, 32),
        zero=4,
    ),
    "Q4_K": WithMinima([UNITS, PACKED, ("quants", opaque(128))], PAIRS, low=(4, 32)),
    "Q5_K": WithMinima(
        [UNITS, PACKED, ("highs", opaque(32)), ("quants", opaque(128))], PAIRS, low=(4, 32), high=(1, 32)
    ),
    "Q6_K": Signed(
        [("quants", opaque(128)), ("highs", opaque(64)), ("small", opaque(16)), ("d", "<f2")],
        [("small", opaque(16)), ("d", "<f4")],
        low=(4, 64),
        high=(2, 32),
        zero=32,
    ),
}
