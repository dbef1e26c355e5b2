"""Arranges rows in eight bits for products of integers, as integer_layout.py describes it."""

from __future__ import annotations

from numba import float32, int32, njit

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.cpu.integer_layout import ARRANGED_BYTES, HALF, SCALES, STARTS, TOGETHER, TOTALS
from tplaunch.worker.cpu.kernels.dots import copy_32_bytes, signed_zero, transpose_8_of_8
from tplaunch.worker.cpu.kernels.spans import own_share
from tplaunch.worker.cpu.kernels.tiles import row_at
from tplaunch.worker.cpu.kernels.vectors import number, put, put_word, unsigned, word
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)


def arrange(
    x: int,
    x_stride: int,
    y: int,
    columns: int,
    num_rows: int,
    zero: int,
    is_signed: int,
    scales: int,
    thread: int,
    num_threads: int,
) -> None:
    """Arranges rows for weights with a zero, of which a part has so many scales.

    `num_rows` is the address of the number of rows. The last row stands for those that are missing.
    """
    parts, rows = columns // COLUMN_TILE, unsigned(num_rows)
    groups = (rows + TOGETHER - 1) // TOGETHER
    first, stop = own_share(groups * parts, thread, num_threads)
    for index in range(first, stop):
        row, part = index // parts * TOGETHER, index % parts
        out = y + index * ARRANGED_BYTES
        arrange_part(x, x_stride, 0, row, rows - 1, columns, part, out, zero, is_signed, scales)


@inlined
def arrange_part(
    x: int,
    x_stride: int,
    x_rows: int,
    first: int,
    last: int,
    columns: int,
    part: int,
    out: int,
    zero: int,
    is_signed: int,
    scales: int,
) -> None:
    """Arranges a part of eight rows from the first on."""
    for each in range(TOGETHER):
        source = row_at(x, x_stride, x_rows, min(first + each, last))
        copy_32_bytes(source + COLUMN_TILE * part, out + COLUMN_TILE * each)
        put(out + SCALES + 4 * each, number(source + columns + 4 * part))
    transpose_8_of_8(out, out + TOTALS)
    minus = -signed_zero() if is_signed != 0 else int32(-zero)
    for each in range(TOGETHER):
        scale = number(out + SCALES + 4 * each)
        first, second = word(out + TOTALS + 4 * each), word(out + TOTALS + HALF + 4 * each)
        if scales == 1:
            first += second
        put_word(out + STARTS + 4 * each, minus * first)
        put_word(out + STARTS + HALF + 4 * each, minus * second)
        put(out + TOTALS + 4 * each, scale * float32(first))
        put(out + TOTALS + HALF + 4 * each, scale * float32(second))


@inlined
def arrange_all(
    x: int,
    x_stride: int,
    x_rows: int,
    count: int,
    columns: int,
    out: int,
    zero: int,
    is_signed: int,
    scales: int,
) -> None:
    """Arranges so many rows, whose numbers are in a list."""
    for first in range(0, count, TOGETHER):
        for part in range(columns // COLUMN_TILE):
            arrange_part(x, x_stride, x_rows, first, count - 1, columns, part, out, zero, is_signed, scales)
            out += ARRANGED_BYTES
