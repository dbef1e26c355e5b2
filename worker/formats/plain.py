"""F32, F16 and BF16: one plane, as in the file."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.formats.base import Bytes, Floats, WeightFormat, opaque


class Plain(WeightFormat):
    """Weights without scales."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self.fits_float16 = self._dtype == np.float16
        self.planes = {"quants": opaque(COLUMN_TILE * self._dtype.itemsize)}

    def repack_into(self, planes: list[Bytes], raw: Bytes, columns: int) -> None:
        rows = planes[0].reshape(len(raw), columns * self._dtype.itemsize)
        rows[:, : raw.shape[1]] = raw
        rows[:, raw.shape[1] :] = 0

    def dequantize(self, planes: list[Bytes], rows: int, columns: int) -> Floats:
        return self._floats(planes[0].view(self._dtype)[: rows * columns]).reshape(rows, columns)

    def _floats(self, stored: npt.NDArray[np.generic]) -> Floats:
        return stored.astype(np.float32)


class BFloat16(Plain):
    """The upper half of a float32."""

    def __init__(self) -> None:
        super().__init__("<u2")

    def _floats(self, stored: npt.NDArray[np.generic]) -> Floats:
        return (stored.astype(np.uint32) << 16).view(np.float32)


FORMATS: Mapping[str, WeightFormat] = {"F32": Plain("<f4"), "F16": Plain("<f2"), "BF16": BFloat16()}
