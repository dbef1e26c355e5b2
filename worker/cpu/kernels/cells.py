"""The cells of a KV cache of any type as vectors, as coordinator/kv_types.py lays them: read and written.

Functions of a type take the cache's planes with the bytes of a cell in the first of them, and the number of a
cell: one head's keys or values of one position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import njit

from tplaunch.worker.cpu.kernels.edges import load_part, store_part
from tplaunch.worker.cpu.kernels.lanes import (
    load_first_halves,
    store_first_halves,
    store_halves,
    store_signed,
)
from tplaunch.worker.cpu.kernels.vectors import (
    divided,
    from_signed,
    larger,
    largest,
    load,
    load_bytes,
    load_halves,
    magnitude,
    nearest,
    number,
    put,
    spread,
    times,
    unsigned,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
LARGEST_QUANT, LEAST = 127.0, 1e-30  # as in worker/numpy/cache.py


class Cells(NamedTuple):
    """A layer's keys or values: the addresses of the planes, and bytes in the first one."""

    data: int
    scales: int  # 0 where the type has none
    nbytes: int


class Blocks(NamedTuple):
    """The blocks of one head of one sequence: its table's address, and how the pool counts cells."""

    table: int
    num_kv_heads: int
    kv_head: int
    length: int


@inlined
def cell_of(blocks: Blocks, position: int) -> int:
    """Returns the number of a position's cell."""
    block: int = unsigned(blocks.table + 4 * (position // blocks.length))
    head = block * blocks.num_kv_heads + blocks.kv_head
    return head * blocks.length + position % blocks.length


@inlined
def load_f32(cells: Cells, cell: int, chunk: int) -> Any:
    """Loads 16 elements of a cell."""
    return load(cells.data + cell * cells.nbytes + 64 * chunk)


@inlined
def load_first_f32(cells: Cells, cell: int, chunk: int, count: int) -> Any:
    """Loads what there is of 16 elements; `count` are left."""
    return load_part(cells.data + cell * cells.nbytes + 64 * chunk, count)


@inlined
def load_f16(cells: Cells, cell: int, chunk: int) -> Any:
    """Loads 16 elements of a cell."""
    return load_halves(cells.data + cell * cells.nbytes + 32 * chunk)


@inlined
def load_first_f16(cells: Cells, cell: int, chunk: int, count: int) -> Any:
    """Loads what there is of 16 elements; `count` are left."""
    address = cells.data + cell * cells.nbytes + 32 * chunk
    if count >= 16:
        return load_halves(address)
    return load_first_halves(address, count)


@inlined
def load_q8_0(cells: Cells, cell: int, chunk: int) -> Any:
    """Loads 16 elements of a cell, half a block."""
    scale = number(cells.scales + 4 * (cell * (cells.nbytes // 32) + chunk // 2))
    quants = load_bytes(cells.data + cell * cells.nbytes + 16 * chunk)
    return times(from_signed(quants), spread(scale))


@inlined
def load_first_q8_0(cells: Cells, cell: int, chunk: int, count: int) -> Any:
    """Loads 16 elements, for blocks are whole: zeros fill them up."""
    return load_q8_0(cells, cell, chunk)


@inlined
def write_f32(cells: Cells, cell: int, source: int, length: int) -> None:
    """Writes a cell of float32 at an address."""
    target = cells.data + cell * cells.nbytes
    for index in range(0, length, 16):
        count = length - index
        store_part(target + 4 * index, load_part(source + 4 * index, count), count)


@inlined
def write_f16(cells: Cells, cell: int, source: int, length: int) -> None:
    """Writes a cell of float32 at an address."""
    target = cells.data + cell * cells.nbytes
    for index in range(0, length, 16):
        count = length - index
        if count >= 16:
            store_halves(target + 2 * index, load(source + 4 * index))
        else:
            store_first_halves(target + 2 * index, load_part(source + 4 * index, count), count)


@inlined
def write_q8_0(cells: Cells, cell: int, source: int, length: int) -> None:
    """Writes a cell of float32 at an address, block after block of 32."""
    target = cells.data + cell * cells.nbytes
    for index in range(0, length, 32):
        a, b = (
            load_part(source + 4 * index, length - index),
            load_part(source + 4 * index + 64, length - index - 16),
        )
        most = largest(larger(magnitude(a), magnitude(b)))
        inverse, scale = spread(0.0), spread(0.0)
        if most >= LEAST:
            inverse = divided(spread(LARGEST_QUANT), spread(most))
            scale = divided(spread(most), spread(LARGEST_QUANT))
        store_signed(target + index, nearest(times(a, inverse)))
        store_signed(target + index + 16, nearest(times(b, inverse)))
        put(cells.scales + 4 * (cell * (cells.nbytes // 32) + index // 32), largest(scale))


class CellType(NamedTuple):
    """The functions of a type."""

    load: Callable[..., Any]
    load_first: Callable[..., Any]
    write: Callable[..., None]


CELL_TYPES = {
    "f32": CellType(load_f32, load_first_f32, write_f32),
    "f16": CellType(load_f16, load_first_f16, write_f16),
    "q8_0": CellType(load_q8_0, load_first_q8_0, write_q8_0),
}
