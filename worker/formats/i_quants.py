"""Blocks of 256 weights whose quants are places in a codebook: IQ1_S to IQ3_S.

On a device a block is as in the file, but for its float16 scale, which becomes a float32 and comes first: so
all of it is read by words. The codebooks, which are long, are those of the gguf package.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

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
# Seven signs are stored: the number of negative weights among eight is even.
EVEN_SIGNS = np.array([seven | bin(seven).count("1") % 2 << 7 for seven in range(128)], np.uint8)
# Of every byte of signs eight factors.
SIGNS = 1 - 2 * fields(np.arange(256, dtype=np.uint8)[:, None], bits=1, run=1).astype(np.int8)
SEVENS = np.array([0, 7, 14, 21], np.uint32)  # where they lie in a word

Integers = npt.NDArray[np.integer[Any]]


@functools.cache
def _codebook(name: str) -> npt.NDArray[np.int8]:
    """[entries, weights of each]"""
    from gguf import quants  # takes long to import

    kind = getattr(quants, name)
    kind.init_grid()
    codebook: npt.NDArray[np.int8] = kind.grid.reshape(kind.grid_shape).astype(np.int8)
    return codebook


class IQuant(BlockFormat):
    """`name` is what the gguf package calls the codebook; it has so many entries of `entry` weights."""

    tile_columns = BLOCK

    def __init__(self, name: str, rest_bytes: int, entries: int, entry: int) -> None:
        rest = ("rest", opaque(rest_bytes))
        self.block = np.dtype([("d", "<f2"), rest])
        self.planes = {"words": np.dtype([("d", "<f4"), rest])}
        self.codebook_bytes = entries * entry
        self._name = name

    def write_codebook(self, places: list[Bytes]) -> None:
        places[0][:] = _codebook(self._name).reshape(self.codebook_bytes).view(np.uint8)

    def _values(self, held: Mapping[str, Records]) -> Floats:
        words = held["words"]
        scales, places, signs = self._parts(words["d"][:, None], bytes_of(words["rest"]))
        count, groups = scales.shape
        values = _codebook(self._name).take(places, axis=0).reshape(count, BLOCK)
        values *= SIGNS.take(signs, axis=0).reshape(count, BLOCK)
        return values.reshape(count, groups, BLOCK // groups).astype(np.float32) * scales[..., None]

    @abstractmethod
    def _parts(self, d: Floats, rest: Bytes) -> tuple[Floats, Integers, Bytes]:
        """d [blocks, 1] -> scales [blocks, groups], places in the codebook, and 32 bytes of signs a block."""


def _quarters(d: Floats, small: npt.NDArray[np.generic], unit: float) -> Floats:
    """Scales of 2 and 3 bits: 0.5 to 15.5, times a power of two."""
    scales: Floats = d * (np.float32(0.5) + small.astype(np.float32)) * np.float32(unit)
    return scales


class IQ2XXS(IQuant):
    """Two words hold 32 weights: four places of a byte; four times seven signs and a scale."""

    def _parts(self, d: Floats, rest: Bytes) -> tuple[Floats, Integers, Bytes]:
        words = rest.view("<u4").reshape(len(rest), 8, 2)
        places = np.ascontiguousarray(words[..., 0]).view(np.uint8)
        return _quarters(d, words[..., 1] >> 28, 0.25), places, _even_signs(words[..., 1])


class IQ2XS(IQuant):
    """Each 8 weights have a place and seven signs in 16 bits, and each 16 weights a scale of four bits."""

    def _parts(self, d: Floats, rest: Bytes) -> tuple[Floats, Integers, Bytes]:
        pairs = np.ascontiguousarray(rest[:, :64]).view("<u2")
        scales = _quarters(d, fields(rest[:, 64:], bits=4, run=1), 0.25)
        signs: Bytes = EVEN_SIGNS.take(pairs >> 9)
        return scales, pairs & 511, signs


class IQ2S(IQuant):
    """Lower bytes of places, signs, upper bits of places, scales of 16 weights."""

    def _parts(self, d: Floats, rest: Bytes) -> tuple[Floats, Integers, Bytes]:
        upper = fields(rest[:, 64:72], bits=2, run=1)
        scales = _quarters(d, fields(rest[:, 72:], bits=4, run=1), 0.25)
        return scales, rest[:, :32] | upper.astype(np.uint16) << 8, rest[:, 32:64]


class IQ3XXS(IQuant):
    """Places; of 32 weights a word of signs and scale."""

    def _parts(self, d: Floats, rest: Bytes) -> tuple[Floats, Integers, Bytes]:
        words = np.ascontiguousarray(rest[:, 64:]).view("<u4")
        return _quarters(d, words >> 28, 0.5), rest[:, :64], _even_signs(words)


class IQ3S(IQuant):
    """Lower bytes of places, their ninth bits, signs, scales of 32 weights."""

    def _parts(self, d: Floats, rest: Bytes) -> tuple[Floats, Integers, Bytes]:
        upper = fields(rest[:, 64:72], bits=1, run=1)
        scales = d * (1 + 2 * fields(rest[:, 104:], bits=4, run=1)).astype(np.float32)
        return scales, rest[:, :64] | upper.astype(np.uint16) << 8, rest[:, 72:104]


def _even_signs(words: npt.NDArray[np.uint32]) -> Bytes:
    """[blocks, 8] words with four times seven signs -> [blocks, 32] with eight."""
    signs: Bytes = EVEN_SIGNS.take(words[..., None] >> SEVENS & 127).reshape(len(words), 32)
    return signs


class IQ1(BlockFormat):
    """Weights are -1, 0 and 1, and all of a few an eighth more or less. A codebook has eight in 16 bits."""

    tile_columns = BLOCK
    codebook_bytes = 2048 * 2

    def write_codebook(self, places: list[Bytes]) -> None:
        codes = (_codebook("IQ1_S") + 1).astype(np.uint16) << np.arange(0, 16, 2, dtype=np.uint16)
        places[0].view("<u2")[:] = codes.sum(axis=1)

    def _scaled(self, scales: Floats, places: Integers, is_less: npt.NDArray[np.generic]) -> Floats:
        """Scales [blocks, groups], places [blocks, 32], and of some places together whether they are less."""
        count, groups = scales.shape
        eighths = np.where(is_less, np.float32(-0.125), np.float32(0.125))
        eighths = np.repeat(eighths, 32 // eighths.shape[1], axis=1)
        values = (_codebook("IQ1_S").take(places, axis=0) + eighths[..., None]).reshape(
            count, groups, BLOCK // groups
        )
        scaled: Floats = values * scales[..., None]
        return scaled


class IQ1S(IQ1):
    """Lower bytes of places; of 32 weights 16 bits: upper bits of four places, a scale, more or less."""

    def __init__(self) -> None:
        rest = ("rest", opaque(48))
        self.block = np.dtype([("d", "<f2"), rest])
        self.planes = {"words": np.dtype([("d", "<f4"), rest])}

    def _values(self, held: Mapping[str, Records]) -> Floats:
        rest = bytes_of(held["words"]["rest"])
        pairs = np.ascontiguousarray(rest[:, 32:]).view("<u2")  # [blocks, 8]
        upper = pairs[..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7
        places = rest[:, :32] | upper.reshape(len(rest), 32) << 8
        units = held["words"]["d"].astype(np.float32, copy=False)
        scales = units[:, None] * (2 * (pairs >> 12 & 7) + 1).astype(np.float32)
        return self._scaled(scales, places, pairs >> 15)


class IQ1M(IQ1):
    """Lower bytes of places; of 8 weights upper bits and more or less; scales of 16 in 3 bits of 16, whose

    highest four are a piece of the float16 scale.
    """

    def __init__(self) -> None:
        self.block = np.dtype([("words", opaque(56))])
        self.planes = {"words": opaque(56)}

    def _values(self, held: Mapping[str, Records]) -> Floats:
        block = bytes_of(held["words"])
        upper = fields(block[:, 32:48], bits=4, run=1)
        quarters = np.ascontiguousarray(block[:, 48:]).view("<u2")  # [blocks, 4]
        pieces = (quarters >> 12) << np.arange(0, 16, 4, dtype=np.uint16)
        unit = np.bitwise_or.reduce(pieces, axis=1).view(np.float16).astype(np.float32)
        small = (quarters[..., None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7).reshape(len(block), 16)
        scales = unit[:, None] * (2 * small + 1).astype(np.float32)
        places = block[:, :32] | (upper & 7).astype(np.uint16) << 8
        return self._scaled(scales, places, upper >> 3)


FORMATS: Mapping[str, WeightFormat] = {
    "IQ2_XXS": IQ2XXS("IQ2_XXS", 64, 256, 8),
    "IQ2_XS": IQ2XS("IQ2_XS", 72, 512, 8),
    "IQ2_S": IQ2S("IQ2_S", 80, 1024, 8),
    "IQ3_XXS": IQ3XXS("IQ3_XXS", 96, 256, 4),
    "IQ3_S": IQ3S("IQ3_S", 108, 512, 4),
    "IQ1_S": IQ1S(),
    "IQ1_M": IQ1M(),
}
