"""Products of rows with matrices of a weight type, for all kernels that have any.

One row is multiplied by weights as they are unpacked. For several rows of a step some rows of the matrix are
widened to memory that stays in the core's cache. Both sum in the order that tiles.py describes.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.cpu.kernels.formats import PARTS, SCALES_BYTES, WEIGHTS
from tplaunch.worker.cpu.kernels.parts_of_tiles import over_parts
from tplaunch.worker.cpu.kernels.prefetching import prefetching
from tplaunch.worker.cpu.kernels.tiles import GROUP, put_four, row_at, tiles
from tplaunch.worker.cpu.kernels.vectors import put, total, zeros
from tplaunch.worker.cpu.options import OPTIONS
from tplaunch.worker.formats import FORMATS

inlined = njit(**OPTIONS)
OWN_BYTES = GROUP * SCALES_BYTES  # of a thread's scratch, before the widened rows


def products_of(weight_type: str) -> Any:
    """Makes the function of a weight type: products with rows, as many as there are.

    It takes the addresses of the matrix's planes, the tiles of its rows, the first of these rows and that
    behind the last, rows of the step and where products go, of which the first is that of the first row.
    """
    weights = WEIGHTS[weight_type]
    pair, prepare = weights.pair, weights.prepare
    per_tile = FORMATS[weight_type].tile_columns // COLUMN_TILE
    accumulate_four, accumulate, widen = over_parts(pair, per_tile == PARTS)

    prefetch_four = prefetching(weight_type, GROUP)

    @inlined
    def of_one_row(
        p0: int, p1: int, p2: int, p3: int, length: int, first: int, stop: int, x: int, y: int, own: int
    ) -> None:
        parts, row = length * per_tile, first
        while row + GROUP <= stop:
            a, b, c, d = zeros(), zeros(), zeros(), zeros()
            for start in range(0, parts, PARTS):
                tile, count = row * length + start // per_tile, min(PARTS, parts - start)
                prefetch_four(p0, p1, p2, p3, row * length + GROUP * (start // per_tile))
                prepare(p0, p1, p2, p3, tile, count, own)
                prepare(p0, p1, p2, p3, tile + length, count, own + SCALES_BYTES)
                prepare(p0, p1, p2, p3, tile + 2 * length, count, own + 2 * SCALES_BYTES)
                prepare(p0, p1, p2, p3, tile + 3 * length, count, own + 3 * SCALES_BYTES)
                a, b, c, d = accumulate_four(
                    p0, p1, p2, p3, own, tile, length, count, x + 128 * start, a, b, c, d
                )
            put_four(y + 4 * (row - first), a, b, c, d)
            row += GROUP
        while row < stop:
            a = zeros()
            for start in range(0, parts, PARTS):
                tile, count = row * length + start // per_tile, min(PARTS, parts - start)
                prepare(p0, p1, p2, p3, tile, count, own)
                a = accumulate(p0, p1, p2, p3, own, tile, count, x + 128 * start, a)
            put(y + 4 * (row - first), total(a))
            row += 1

    @inlined
    def of_several(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        length: int,
        first: int,
        stop: int,
        x: int,
        x_stride: int,
        x_rows: int,
        y: int,
        y_stride: int,
        y_rows: int,
        rows: int,
        own: int,
        widened_rows: int,
    ) -> None:
        parts, widened = length * per_tile, own + OWN_BYTES
        row_bytes = 128 * parts
        for start in range(first, stop, widened_rows):
            count = min(widened_rows, stop - start)
            for row in range(count):
                for part in range(0, parts, PARTS):
                    tile, left = (start + row) * length + part // per_tile, min(PARTS, parts - part)
                    prepare(p0, p1, p2, p3, tile, left, own)
                    widen(p0, p1, p2, p3, own, tile, left, widened + row * row_bytes + 128 * part)
            at = y + 4 * (start - first)
            tiles(widened, row_bytes, count, x, x_stride, x_rows, at, y_stride, y_rows, rows)

    @inlined
    def of_rows(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        length: int,
        first: int,
        stop: int,
        x: int,
        x_stride: int,
        x_rows: int,
        y: int,
        y_stride: int,
        y_rows: int,
        rows: int,
        own: int,
        widened_rows: int,
    ) -> None:
        if rows == 1:
            source, out = row_at(x, x_stride, x_rows, 0), row_at(y, y_stride, y_rows, 0)
            of_one_row(p0, p1, p2, p3, length, first, stop, source, out, own)
        elif rows > 1:
            of_several(
                p0,
                p1,
                p2,
                p3,
                length,
                first,
                stop,
                x,
                x_stride,
                x_rows,
                y,
                y_stride,
                y_rows,
                rows,
                own,
                widened_rows,
            )

    return of_rows
