"""The paged KV cache in NumPy, of any type: what coordinator/kv_types.py describes, written and read."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.limits import Limits

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

DTYPES: dict[str, npt.DTypeLike] = {"f16": np.float16, "f32": np.float32, "q8_0": np.int8}
LARGEST_QUANT = np.float32(127)
LEAST = np.float32(1e-30)  # largest element of a block that is not all zeros: 127 over it is finite


def quantized(values: Floats, block: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """values [..., length] -> quants [..., blocks * block] and scales [..., blocks]."""
    missing = -values.shape[-1] % block
    filled = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])
    blocks = filled.reshape(*values.shape[:-1], -1, block)
    largest = np.abs(blocks).max(axis=-1)
    counts = largest >= LEAST
    inverse = np.divide(LARGEST_QUANT, largest, out=np.zeros_like(largest), where=counts)
    quants = np.rint(blocks * inverse[..., None]).astype(np.int8)
    return quants.reshape(filled.shape), np.where(counts, largest / LARGEST_QUANT, np.float32(0))


class NumpyCache:
    """One layer's keys or values in a buffer of bytes, which it shares, and beside it as float32.

    NumPy widens a float16 in more than a nanosecond: so each is widened once, when it is written, and not
    again at every step.
    """

    def __init__(
        self, data: Bytes, limits: Limits, num_kv_heads: int, length: int, windowed: bool = False
    ) -> None:
        self._type, self._length = KV_TYPES[limits.kv_type], length
        cells = (limits.pool(windowed), num_kv_heads, limits.block_length)
        size = self._type.element_plane_bytes(math.prod(cells), length)
        elements = data[:size].view(DTYPES[limits.kv_type])
        self._elements = elements.reshape(*cells, -1)  # [num_blocks, kv_heads, block_length, whole blocks]
        self._scales = data[size:].view(np.float32).reshape(*cells, -1) if self._type.scale_bytes else None
        # [kv_heads, num_blocks, block_length, length]: a sequence whose blocks are neighbours is no copy
        self._widened = self._read_back((slice(None), slice(None), slice(None))).swapaxes(0, 1).copy()

    def write(self, block: int, place: int, values: Floats) -> None:
        """values [kv_heads, length]: what one position of one block holds."""
        cell = (block, slice(None), place)
        if self._scales is None:
            self._elements[cell] = values
        else:
            self._elements[cell], self._scales[cell] = quantized(values, self._type.block_elements)
        self._widened[:, block, place] = self._read_back(cell)

    def widen_at(self, offset: int) -> None:
        """Reads the block whose elements begin at this offset in bytes anew; none begins where scales lie."""
        elements = self._elements[0].nbytes
        if offset < self._elements.nbytes:
            block = (offset // elements, slice(None), slice(None))
            self._widened[:, block[0]] = self._read_back(block)

    def _read_back(self, cells: tuple[int | slice, ...]) -> Floats:
        """Returns the values of these cells [..., length]."""
        elements = self._elements[cells].astype(np.float32)
        if self._scales is None:
            return elements
        scales = self._scales[cells]
        scaled = elements.reshape(*scales.shape, -1) * scales[..., None]
        values: Floats = scaled.reshape(elements.shape)[..., : self._length]
        return values

    def read(self, blocks: npt.NDArray[np.uint32], num_positions: int) -> Floats:
        """The first positions of a sequence [kv_heads, positions, length]; not to be written to."""
        first, count = int(blocks[0]), len(blocks)
        are_neighbours = count == 1 or bool((np.diff(blocks.astype(np.int64)) == 1).all())
        held = self._widened[:, first : first + count] if are_neighbours else self._widened[:, blocks]
        num_heads, _, _, length = held.shape
        return held.reshape(num_heads, -1, length)[:, :num_positions]
