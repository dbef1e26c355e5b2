"""Quants of four bits that stand for 16 uneven values: IQ4_NL, IQ4_XS, and the floats of MXFP4 and NVFP4.

https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf has E2M1, E4M3 and E8M0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.worker.formats.base import BlockFormat, Floats, Records, WeightFormat, bytes_of, fields, opaque
from tplaunch.worker.formats.small_scales import eight_scales

NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the floats: scales are halved
HALF_E8M0 = np.ldexp(1.0, np.arange(256) - 128).astype(np.float32)


def _half_e4m3() -> Floats:
    """Returns half the value of every byte as E4M3, without its sign; one NaN is read as 0, as in ggml."""
    codes = np.arange(256)
    exponents, mantissas = codes >> 3 & 15, codes & 7
    normal = np.ldexp(1 + mantissas / 8, exponents - 8)
    values: Floats = np.where(exponents == 0, np.ldexp(mantissas, -10), normal).astype(np.float32)
    values[0x7F] = 0
    return values


HALF_E4M3 = _half_e4m3()


class Lookup(BlockFormat):
    """`run`: see base.fields; `scales` makes [blocks, groups] of what the plane of scales holds."""

    def __init__(
        self,
        block: list[tuple[Any, ...]],
        scales: Callable[[Records], Floats],
        values: tuple[int, ...],
        *,
        run: int = 16,
        scale_plane: npt.DTypeLike | None = None,
    ) -> None:
        self.block = np.dtype(block)
        self.planes = {
            "quants": self.block["quants"],
            "scales": np.dtype(scale_plane or self.block["scales"]),
        }
        self.tile_columns = 2 * self.block["quants"].itemsize
        self._scales, self._table, self._run = scales, np.array(values, np.float32), run

    def _values(self, held: Mapping[str, Records]) -> Floats:
        scales = self._scales(held["scales"])
        count, groups = scales.shape
        values = self._table.take(fields(bytes_of(held["quants"]), 4, self._run))
        scaled: Floats = values.reshape(count, groups, self.tile_columns // groups) * scales[..., None]
        return scaled


class IQ4XS(Lookup):
    """Blocks of 256 with eight scales of six bits, 32 more than they are."""

    def _derived(self, blocks: Records) -> npt.NDArray[np.generic]:
        return eight_scales(blocks["low"], blocks["high"])


def _float16(held: Records) -> Floats:
    return bytes_of(held).view("<f2").astype(np.float32)


def _in_units(held: Records) -> Floats:
    units = held["d"].astype(np.float32, copy=False)
    return units[:, None] * bytes_of(held["small"]).view(np.int8).astype(np.float32)


FORMATS: Mapping[str, WeightFormat] = {
    "IQ4_NL": Lookup([("scales", opaque(2)), ("quants", opaque(16))], _float16, NONLINEAR),
    "IQ4_XS": IQ4XS(
        [("d", "<f2"), ("high", "<u2"), ("low", opaque(4)), ("quants", opaque(128))],
        _in_units,
        NONLINEAR,
        scale_plane=[("small", opaque(8)), ("d", "<f4")],
    ),
    "MXFP4": Lookup(
        [("scales", opaque(1)), ("quants", opaque(16))], lambda held: HALF_E8M0[bytes_of(held)], E2M1
    ),
    "NVFP4": Lookup(
        [("scales", opaque(4)), ("quants", opaque(32))], lambda held: HALF_E4M3[bytes_of(held)], E2M1, run=8
    ),
}
