"""Rotates queries and keys, and writes keys and values to the cache."""

from __future__ import annotations

from collections.abc import Callable

from numba import njit

from tplaunch.worker.cpu.kernels.cells import CELL_TYPES, Blocks, Cells, cell_of
from tplaunch.worker.cpu.kernels.edges import load_part, store_part
from tplaunch.worker.cpu.kernels.heads import Rotation, rotate_head
from tplaunch.worker.cpu.kernels.spans import own_share
from tplaunch.worker.cpu.kernels.vectors import number, spread, times, unsigned
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)


def write(kv_type: str) -> Callable[..., None]:
    """Makes the kernel of a cache's type.

    `temperatures` is the address of the first row's factor of queries, in the table of angles, or 0. A
    thread's scratch has room for a key.
    """
    write_cell = CELL_TYPES[kv_type].write

    def kernel(
        keys: int,
        key_scales: int,
        key_bytes: int,
        values: int,
        value_scales: int,
        value_bytes: int,
        rows: int,
        stride: int,
        num_heads: int,
        query_bytes: int,
        num_kv_heads: int,
        key_length: int,
        value_length: int,
        first_key: int,
        first_value: int,
        table: int,
        table_stride: int,
        start: int,
        dimension: int,
        interleaved: int,
        temperatures: int,
        query: int,
        num_rows: int,
        positions: int,
        table_starts: int,
        tables: int,
        block_length: int,
        scratch: int,
        scratch_bytes: int,
        thread: int,
        num_threads: int,
    ) -> None:
        rotation = Rotation(start, dimension, interleaved)
        key_cells, value_cells = Cells(keys, key_scales, key_bytes), Cells(values, value_scales, value_bytes)
        key, items = scratch + thread * scratch_bytes, num_heads + num_kv_heads
        if value_length > 0:
            items += num_kv_heads
        first, stop = own_share(unsigned(num_rows) * items, thread, num_threads)
        for item in range(first, stop):
            row, head = item // items, item % items
            at, angles = rows + row * stride, table + row * table_stride
            if head < num_heads:
                target = query + 4 * key_length * (row * num_heads + head)
                rotate_head(at + head * query_bytes, target, key_length, angles, rotation)
                if temperatures != 0:
                    _scale(target, key_length, temperatures + row * table_stride)
                continue
            kv_head = (head - num_heads) % num_kv_heads
            own_table = tables + 4 * unsigned(table_starts + 4 * row)
            blocks = Blocks(own_table, num_kv_heads, kv_head, block_length)
            cell = cell_of(blocks, unsigned(positions + 4 * row))
            if head < num_heads + num_kv_heads:
                source = at + first_key + 4 * key_length * kv_head
                rotate_head(source, key, key_length, angles, rotation)
                write_cell(key_cells, cell, key, key_length)
            else:
                source = at + first_value + 4 * value_length * kv_head
                write_cell(value_cells, cell, source, value_length)

    return kernel


@inlined
def _scale(head: int, length: int, factor: int) -> None:
    """Multiplies a head by the number at an address."""
    for index in range(0, length, 16):
        at, left = head + 4 * index, length - index
        store_part(at, times(load_part(at, left), spread(number(factor))), left)
