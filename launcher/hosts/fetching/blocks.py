"""Cuts tensors into cells of a fixed grid, and cells into the blocks that are fetched. Pure arithmetic.

A rank that holds some columns of a matrix needs a strip of each of its rows, so a block is a rectangle of a
tensor: bytes of neighbouring rows. The grid is the same whatever the share, so that what was fetched for one
share counts for another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.split.plan import Span

Mask = npt.NDArray[np.bool_]  # [groups of rows, tiles of a row]
ROWS, TILE = 16, 512  # of a cell: rows, and bytes of each
BLOCK_BYTES = 1 << 20  # of a block at most, but for a single cell
MAX_STRIPS = BLOCK_BYTES // TILE  # of a block: each is a read of its own
PAGE = 4096  # a disk's: what lies between strips nearer than that takes room, too


@dataclass(frozen=True)
class Strips:
    """Bytes of one of a model's files: `count` strips of `width` bytes, each `stride` after the last."""

    part: int
    offset: int
    width: int
    stride: int
    count: int

    def __post_init__(self) -> None:
        if not (self.part >= 0 and self.offset >= 0 and self.width > 0 and self.count > 0):
            raise ValueError(f"{self} are no strips of a file")
        if self.count > 1 and self.stride < self.width:
            raise ValueError(f"{self} overlap")

    @property
    def num_bytes(self) -> int:
        return self.width * self.count

    @property
    def stop(self) -> int:
        """Returns the offset behind the last byte."""
        return self.offset + self.stride * (self.count - 1) + self.width

    @property
    def offsets(self) -> range:
        return range(self.offset, self.offset + self.stride * self.count, self.stride or 1)

    @property
    def disk_bytes(self) -> int:
        """Returns the room that they take at most in a file that has holes elsewhere."""
        if self.stride - self.width < PAGE:
            return self.stop - self.offset + 2 * PAGE
        return self.count * (self.width + 2 * PAGE)

    def joined(self) -> Strips:
        """Returns the same bytes as a single strip where nothing lies between them."""
        if self.count == 1 or self.stride != self.width:
            return self
        return Strips(self.part, self.offset, self.num_bytes, self.num_bytes, 1)


@dataclass(frozen=True)
class Block:
    """A rectangle of a tensor: rows, and of each of them bytes. `tensor` is its place in the model's list."""

    tensor: int
    rows: Span
    bytes: Span


@dataclass(frozen=True)
class Grid:
    """The cells of one tensor."""

    part: int
    offset: int
    num_rows: int
    row_bytes: int

    @staticmethod
    def of(tensor: TensorInfo) -> Grid:
        row_bytes = WEIGHT_TYPES[tensor.type].row_bytes(tensor.columns)
        num_rows = tensor.nbytes // row_bytes if row_bytes else 0
        return Grid(tensor.part, tensor.offset, num_rows, row_bytes)

    def no_cells(self) -> Mask:
        return np.zeros((-(-self.num_rows // ROWS), -(-self.row_bytes // TILE)), np.bool_)

    def holds(self, block: Block) -> bool:
        return block.rows.stop <= self.num_rows and block.bytes.stop <= self.row_bytes

    def mark(self, mask: Mask, block: Block) -> None:
        """Sets all cells that the block touches."""
        if len(block.rows) and len(block.bytes):
            mask[_outwards(block.rows, ROWS), _outwards(block.bytes, TILE)] = True

    def mark_whole(self, mask: Mask, block: Block) -> None:
        """Sets those cells that lie in the block entirely; of a tensor's last ones only a part exists."""
        rows = _inwards(block.rows, ROWS, self.num_rows)
        mask[rows, _inwards(block.bytes, TILE, self.row_bytes)] = True

    def blocks(self, tensor: int, mask: Mask) -> Iterator[Block]:
        """Yields the blocks, each of BLOCK_BYTES at most, that cover the set cells and nothing else."""
        for groups, tiles in _rectangles(mask):
            columns = Span(tiles.start * TILE, min(tiles.stop * TILE, self.row_bytes))
            rows = Span(groups.start * ROWS, min(groups.stop * ROWS, self.num_rows))
            wide = max(1, BLOCK_BYTES // (ROWS * TILE)) * TILE
            for part in _pieces(columns, wide):
                high = max(1, BLOCK_BYTES // (len(part) * ROWS)) * ROWS
                if len(part) < self.row_bytes:
                    high = min(high, MAX_STRIPS)
                yield from (Block(tensor, piece, part) for piece in _pieces(rows, high))

    def strips(self, block: Block) -> Strips:
        """Returns the place of a block's bytes in its file."""
        offset = self.offset + block.rows.start * self.row_bytes + block.bytes.start
        return Strips(self.part, offset, len(block.bytes), self.row_bytes, len(block.rows)).joined()


def _outwards(span: Span, unit: int) -> slice:
    return slice(span.start // unit, -(-span.stop // unit))


def _inwards(span: Span, unit: int, end: int) -> slice:
    return slice(-(-span.start // unit), -(-span.stop // unit) if span.stop == end else span.stop // unit)


def _pieces(span: Span, length: int) -> Iterator[Span]:
    for start in range(span.start, span.stop, length):
        yield Span(start, min(start + length, span.stop))


def _rectangles(mask: Mask) -> Iterator[tuple[Span, Span]]:
    """Yields rectangles of set cells: neighbouring rows of cells that are alike go together."""
    first = 0
    for pattern, rows in itertools.groupby(map(bytes, mask)):
        count = sum(1 for _ in rows)
        for tiles in _runs(np.frombuffer(pattern, np.bool_)):
            yield Span(first, first + count), tiles
        first += count


def _runs(row: Mask) -> Iterator[Span]:
    """Yields the spans of neighbouring set elements."""
    edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield Span(start, stop)


def covering_blocks(grids: Sequence[Grid], masks: dict[int, Mask]) -> list[Block]:
    """Returns the blocks of all tensors in the order in which they lie in the files."""
    found = [block for tensor, mask in masks.items() for block in grids[tensor].blocks(tensor, mask)]
    return sorted(found, key=lambda block: _place(grids[block.tensor].strips(block)))


def _place(strips: Strips) -> tuple[int, int]:
    return strips.part, strips.offset
