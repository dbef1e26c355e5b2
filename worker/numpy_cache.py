"""The paged KV cache in NumPy, of any type: what coordinator/kv_types.py describes, written and read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coordinator.kv_types import KV_TYPES
from coordinator.plan import Limits

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
    """One layer's keys or values in a buffer of bytes, which it shares."""

    def __init__(self, data: Bytes, limits: Limits, num_kv_heads: int, length: int) -> None:
        self._type, self._length = KV_TYPES[limits.kv_type], length
        cells = (limits.num_blocks, num_kv_heads, limits.block_length)
        size = self._type.element_plane_bytes(int(np.prod(cells)), length)
        elements = data[:size].view(DTYPES[limits.kv_type])
        self._elements = elements.reshape(
            *cells, -1
        )  # [num_blocks, kv_heads, block_length, filled up length]
        self._scales = data[size:].view(np.float32).reshape(*cells, -1) if self._type.scale_bytes else None

    def write(self, block: int, place: int, values: Floats) -> None:
        """values [kv_heads, length]: what one position of one block holds."""
        if self._scales is None:
            self._elements[block, :, place] = values
            return
        quants, scales = quantized(values, self._type.block_elements)
        self._elements[block, :, place] = quants
        self._scales[block, :, place] = scales

    def read(self, blocks: npt.NDArray[np.uint32], num_positions: int) -> Floats:
        """The first positions of a sequence with these blocks: [kv_heads, positions, length] float32."""
        elements = _in_order(self._elements[blocks], num_positions)
        if self._scales is None:
            return elements
        scales = _in_order(self._scales[blocks], num_positions)
        widened = elements.reshape(*scales.shape, -1) * scales[..., None]
        return widened.reshape(elements.shape)[..., : self._length]


def _in_order(blocks: npt.NDArray[np.generic], num_positions: int) -> Floats:
    """[blocks, kv_heads, block_length, length] -> [kv_heads, positions, length] float32."""
    heads = blocks.transpose(1, 0, 2, 3)
    return heads.reshape(heads.shape[0], -1, heads.shape[3])[:, :num_positions].astype(np.float32)
