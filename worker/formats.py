"""How each weight type lies on a device: planes of 32-bit words, repacked from GGUF's blocks.

GGUF blocks are 18 or 34 bytes long; planes (quants in 16-byte words, scales apart) need only aligned 32-bit
loads, which every driver has. shaders/weights.slang reads what this file writes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from coordinator.plan import COLUMN_TILE, padded

PLANE_ALIGNMENT = 256  # bytes; suits every device's minimum storage buffer alignment

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // PLANE_ALIGNMENT) * PLANE_ALIGNMENT


class WeightFormat(ABC):
    """One weight type on the device. A matrix is [rows, columns], columns a multiple of 32."""

    plane_bytes: tuple[int, ...]  # of each plane, per `tile_columns` weights
    tile_columns = COLUMN_TILE  # more for a type whose blocks are longer
    fits_float16 = True  # whether that holds its weights well enough
    has_integers = False  # whether shaders/integers.slang can multiply it by quantized activations

    def plane_offsets(self, rows: int, columns: int) -> list[int]:
        """Byte offset of each plane, and last the size of all, for a matrix."""
        offsets = [0]
        for tile_bytes in self.plane_bytes:
            offsets.append(offsets[-1] + _aligned(rows * columns // self.tile_columns * tile_bytes))
        return offsets

    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of a whole matrix on the device."""
        return self.plane_offsets(rows, columns)[-1]

    @abstractmethod
    def repack(self, raw: Bytes, columns: int) -> list[Bytes]:
        """GGUF rows [rows, row bytes] -> one flat array of bytes per plane, rows filled up to `columns`."""

    @abstractmethod
    def dequantize(self, planes: list[Bytes], rows: int, columns: int) -> Floats:
        """The planes of a matrix -> float32 [rows, columns]: what kernels compute with."""

    def repack_into(self, planes: list[Bytes], raw: Bytes, columns: int) -> None:
        """As repack, into memory that is there. A format overrides it to copy every byte only once."""
        for plane, packed in zip(planes, self.repack(raw, columns), strict=True):
            plane[:] = packed

    def widen(self, raw: Bytes, columns: int) -> Floats:
        """GGUF rows [rows, row bytes] -> float32 [rows, columns]."""
        held = padded(columns)
        return self.dequantize(self.repack(raw, held), len(raw), held)[:, :columns]


def _fill_up(rows: npt.NDArray[np.generic], length: int) -> npt.NDArray[np.generic]:
    missing = length - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, missing))) if missing else rows


class _PlainFormat(WeightFormat):
    """F32 and F16: one plane, as in the file."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self.fits_float16 = self._dtype == np.float16
        self.plane_bytes = (COLUMN_TILE * self._dtype.itemsize,)

    def repack(self, raw: Bytes, columns: int) -> list[Bytes]:
        return [
            np.ascontiguousarray(_fill_up(raw, columns * self._dtype.itemsize)).reshape(-1).view(np.uint8)
        ]

    def repack_into(self, planes: list[Bytes], raw: Bytes, columns: int) -> None:
        rows = planes[0].reshape(len(raw), -1)
        rows[:, : raw.shape[1]] = raw
        rows[:, raw.shape[1] :] = 0

    def dequantize(self, planes: list[Bytes], rows: int, columns: int) -> Floats:
        return planes[0].view(self._dtype)[: rows * columns].reshape(rows, columns).astype(np.float32)


class _BlockFormat(WeightFormat):
    """A float16 scale and then quants for 32 weights; the scale becomes a plane of its own."""

    has_integers = True

    def __init__(self, quant_bytes: int) -> None:
        self.plane_bytes = (quant_bytes, 2)
        # Opaque bytes: NumPy copies them three times as fast as it copies arrays of so few.
        self._block = np.dtype([("scale", "V2"), ("quants", f"V{quant_bytes}")])

    def repack(self, raw: Bytes, columns: int) -> list[Bytes]:
        num_blocks = raw.size // self._block.itemsize
        planes = [np.empty(num_blocks * plane_bytes, np.uint8) for plane_bytes in self.plane_bytes]
        self.repack_into(planes, raw, columns)
        return planes

    def repack_into(self, planes: list[Bytes], raw: Bytes, columns: int) -> None:
        blocks = raw.view(self._block)  # [rows, blocks]
        for plane, part in zip(planes, ("quants", "scale"), strict=True):
            plane.view(self._block[part]).reshape(blocks.shape)[:] = blocks[part]

    def dequantize(self, planes: list[Bytes], rows: int, columns: int) -> Floats:
        num_blocks = rows * columns // self.tile_columns
        quants = planes[0][: num_blocks * self.plane_bytes[0]].reshape(num_blocks, self.plane_bytes[0])
        scales = planes[1].view("<f2")[:num_blocks, None]
        return self._scaled(quants, scales).reshape(rows, columns)

    def widen(self, raw: Bytes, columns: int) -> Floats:
        blocks = raw.reshape(-1, self._block.itemsize)
        scales = np.ascontiguousarray(blocks[:, :2]).view("<f2")
        return self._scaled(blocks[:, 2:], scales).reshape(len(raw), columns)

    def _scaled(self, quants: Bytes, scales: npt.NDArray[np.float16]) -> Floats:
        """quants [blocks, quant bytes], scales [blocks, 1] -> float32 [blocks, 32]."""
        with np.errstate(invalid="ignore"):  # a damaged file's scales may be infinite
            return self._integers(quants) * scales.astype(np.float32)

    @abstractmethod
    def _integers(self, quants: Bytes) -> Floats:
        """[blocks, quant bytes] -> the integers as float32 [blocks, 32]."""


class _Q8(_BlockFormat):
    def _integers(self, quants: Bytes) -> Floats:
        return quants.view(np.int8).astype(np.float32)


class _Q4(_BlockFormat):
    """The low halves of the 16 bytes are the first 16 weights, the high halves the others; 8 is zero."""

    def _integers(self, quants: Bytes) -> Floats:
        return np.concatenate((quants & 15, quants >> 4), axis=1).astype(np.float32) - 8


FORMATS: dict[str, WeightFormat] = {
    "F32": _PlainFormat("<f4"),
    "F16": _PlainFormat("<f2"),
    "Q8_0": _Q8(32),
    "Q4_0": _Q4(16),
}
