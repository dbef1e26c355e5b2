"""The types of the KV cache, and how each lies in memory: as kernels, NumPy and `plan` follow it.

A cache is of keys or of values of one layer. Its cells are [num_blocks, kv_heads, block_length], one head of
one position each. A float type lays the cells' elements one after another. A quantised one cuts each cell
into blocks of 32 elements, the last filled up with zeros, and has two planes: the int8 quants of all cells
[cells, blocks, 32], and behind them the float32 scales [cells, blocks]. An element is quant * scale, where
scale is the block's largest magnitude / 127 and a quant the nearest integer, halves to the even one. So
every driver can read it by aligned 32-bit words, and one invocation can write a block without its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KvType:
    """Sizes of a type."""

    element_bytes: int
    block_elements: int = 1  # under one scale
    scale_bytes: int = 0  # of a block

    def num_blocks(self, length: int) -> int:
        """Returns the blocks of a cell with a head of `length` elements."""
        return -(-length // self.block_elements)

    def element_plane_bytes(self, num_cells: int, length: int) -> int:
        """All cells' elements: where the scales start."""
        return num_cells * self.num_blocks(length) * self.block_elements * self.element_bytes

    def nbytes(self, num_cells: int, length: int) -> int:
        """A whole cache."""
        scales = num_cells * self.num_blocks(length) * self.scale_bytes
        return self.element_plane_bytes(num_cells, length) + scales


KV_TYPES = {
    "f16": KvType(2),
    "f32": KvType(4),
    "q8_0": KvType(1, block_elements=32, scale_bytes=4),
}
