"""The parts that all weight formats share: places of planes, and how blocks of a file become planes."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.plan import COLUMN_TILE, padded

PLANE_ALIGNMENT = 256  # bytes; suits every device's minimum storage buffer alignment

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Records = npt.NDArray[np.void]  # of a structured dtype: GGUF's blocks, or what a plane holds for one


def _aligned(nbytes: int) -> int:
    return -(-nbytes // PLANE_ALIGNMENT) * PLANE_ALIGNMENT


class WeightFormat(ABC):
    """One weight type on the device. A matrix is [rows, columns], columns a multiple of 32."""

    planes: Mapping[str, np.dtype[np.generic]]  # what each holds for `tile_columns` weights, by its address
    tile_columns = COLUMN_TILE  # more for a type whose blocks are longer
    fits_float16 = True  # whether that holds its weights well enough to multiply cooperative matrices
    has_integers = False  # whether shaders/integers.slang can multiply it by quantized activations
    codebook_bytes = 0  # of what its quants are indices of; it lies before the planes

    @functools.cached_property
    def plane_bytes(self) -> tuple[int, ...]:
        """The bytes of each plane, per `tile_columns` weights."""
        return tuple(dtype.itemsize for dtype in self.planes.values())

    def plane_offsets(self, rows: int, columns: int) -> list[int]:
        """Byte offset of each plane, and last the size of all, for a matrix."""
        num_tiles = rows * columns // self.tile_columns
        offsets = [_aligned(self.codebook_bytes) if num_tiles else 0]
        for tile_bytes in self.plane_bytes:
            offsets.append(offsets[-1] + _aligned(num_tiles * tile_bytes))
        return offsets

    def addresses(self, start: int, rows: int, columns: int) -> dict[str, int]:
        """Returns the address of each part of a matrix, by its name in the kernels' push constants."""
        offsets = self.plane_offsets(rows, columns)
        addresses = {name: start + offset for name, offset in zip(self.planes, offsets, strict=False)}
        return {**addresses, "codebook": start} if self.codebook_bytes else addresses

    def row_bytes(self, columns: int) -> int:
        """The bytes of a row in the plane that kernels call quants; 0 where there is none."""
        planes = dict(zip(self.planes, self.plane_bytes, strict=True))
        return columns // self.tile_columns * planes.get("quants", 0)

    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of a whole matrix on the device."""
        return self.plane_offsets(rows, columns)[-1]

    def write_codebook(self, places: list[Bytes]) -> None:
        """Fills the first `codebook_bytes` of a matrix."""
        raise NotImplementedError(f"{type(self).__name__} has no codebook")

    def repack(self, raw: Bytes, columns: int) -> list[Bytes]:
        """GGUF rows [rows, row bytes] -> one flat array of bytes per plane, rows filled up to `columns`."""
        num_tiles = len(raw) * columns // self.tile_columns
        planes: list[Bytes] = [np.empty(num_tiles * nbytes, np.uint8) for nbytes in self.plane_bytes]
        self.repack_into(planes, raw, columns)
        return planes

    def whole(self, raw: Bytes, columns: int) -> Iterator[tuple[int, Bytes]]:
        """All that a matrix of these rows holds, by byte offset."""
        offsets = self.plane_offsets(len(raw), columns)
        if self.codebook_bytes and offsets[-1]:
            codebook = np.empty(self.codebook_bytes, np.uint8)
            self.write_codebook([codebook])
            yield 0, codebook
        yield from zip(offsets, self.repack(raw, columns), strict=False)

    @abstractmethod
    def repack_into(self, planes: list[Bytes], raw: Bytes, columns: int) -> None:
        """Does as repack, into memory that is there."""

    @abstractmethod
    def dequantize(self, planes: list[Bytes], rows: int, columns: int) -> Floats:
        """The planes of a matrix -> float32 [rows, columns]: what kernels compute with."""

    def widen(self, raw: Bytes, columns: int) -> Floats:
        """GGUF rows [rows, row bytes] -> float32 [rows, columns]."""
        held = padded(columns)
        return self.dequantize(self.repack(raw, held), len(raw), held)[:, :columns]


class BlockFormat(WeightFormat):
    """Blocks of weights that share scales. What a file's block and a plane call alike is copied.

    What is copied is opaque bytes where it can be: NumPy copies them three times as fast as arrays of so few.
    """

    block: np.dtype[np.void]  # in the file

    def repack_into(self, planes: list[Bytes], raw: Bytes, columns: int) -> None:
        blocks = raw.view(self.block)  # [rows, blocks]
        for plane, (name, dtype) in zip(planes, self.planes.items(), strict=True):
            held = plane.view(dtype).reshape(blocks.shape)
            if dtype.names is None:
                held[:] = blocks[name]
            for field in dtype.names or ():
                is_copied = field in (self.block.names or ())  # also from float16 to float32
                held[field] = blocks[field] if is_copied else self._derived(blocks)

    def _derived(self, blocks: Records) -> npt.NDArray[np.generic]:
        """The field of a plane that is none of a block's: scales that the file packs more tightly."""
        raise NotImplementedError(f"{type(self).__name__} copies everything")

    def dequantize(self, planes: list[Bytes], rows: int, columns: int) -> Floats:
        count = rows * columns // self.tile_columns
        held: dict[str, Records] = {
            name: plane[: count * dtype.itemsize].view(dtype)
            for plane, (name, dtype) in zip(planes, self.planes.items(), strict=True)
        }
        return self._finite_or_not(held, rows, columns)

    def _finite_or_not(self, held: Mapping[str, Records], rows: int, columns: int) -> Floats:
        """The weights that the planes hold [rows, columns]; scales of a damaged file may be infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._values(held).reshape(rows, columns)

    @abstractmethod
    def _values(self, held: Mapping[str, Records]) -> Floats:
        """Returns the weights that the planes hold, float32 [blocks, any shape]."""


def opaque(nbytes: int) -> np.dtype[np.void]:
    """The dtype of bytes that are copied as one."""
    return np.dtype((np.void, nbytes))


def bytes_of(records: npt.NDArray[np.generic]) -> Bytes:
    """[blocks, ...] of anything -> its bytes [blocks, bytes]."""
    nbytes = records.dtype.itemsize * math.prod(records.shape[1:])
    return np.ascontiguousarray(records).view(np.uint8).reshape(len(records), nbytes)


def fields(data: Bytes, bits: int, run: int) -> Bytes:
    """Bytes [..., n] -> their fields of so many bits [..., n * 8 / bits].

    Of each run of bytes the lowest fields come first, and the highest last.
    """
    *leading, nbytes = data.shape
    runs = data.reshape(*leading, nbytes // run, 1, run)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (runs >> shifts & np.uint8((1 << bits) - 1)).reshape(*leading, nbytes * 8 // bits)
