"""Rows in eight bits times matrices of types that have an integer form.

Integers of 32 columns, or of 16 where these have a scale of their own, are added up without an error. Parts
follow one another: each is multiplied by its scales, and then by the activations', and is added to the sum;
after it its offset times the total of its activations. So the bits of a sum depend on nothing beside it.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.cpu.integer_layout import (
    ARRANGED_BYTES,
    FORMS,
    HALF,
    PART_BYTES,
    PARTS,
    ROWS,
    SCALES,
    STAGE_BYTES,
    STARTS,
    TOGETHER,
    TOTALS,
    VECTOR,
)
from tplaunch.worker.cpu.kernels.dots import from_words, load_words, signed_dots, small_dots, spread_word
from tplaunch.worker.cpu.kernels.edges import store_part
from tplaunch.worker.cpu.kernels.packed import packing
from tplaunch.worker.cpu.kernels.quants import num_vectors
from tplaunch.worker.cpu.kernels.tiles import MOST_VECTORS, row_at
from tplaunch.worker.cpu.kernels.vectors import load, multiply_add, number, spread, times, word, zeros
from tplaunch.worker.cpu.options import OPTIONS
from tplaunch.worker.formats import FORMATS

inlined = njit(**OPTIONS)


def integer_products_of(weight_type: str) -> Any:
    """Makes the function of a weight type: products with arranged rows, as many as there are.

    It takes the addresses of the planes, the tiles of a matrix row, the first of these rows and that behind
    the last, arranged rows, and where products go, of which the first is that of the first row. Scratch
    has room for `groups` times 16 rows of the matrix.
    """
    pack_eight, pack = packing(weight_type)
    of_part, of_group = _of_part(weight_type), _of_group(weight_type)
    scale_bytes = VECTOR * min(2, FORMS[weight_type].vectors)
    per_tile = FORMATS[weight_type].tile_columns // COLUMN_TILE
    own_vectors = 8 + FORMS[weight_type].vectors

    @inlined
    def of_one_row(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        length: int,
        first: int,
        stop: int,
        x: int,
        y: int,
        own: int,
    ) -> None:
        """Packs eight parts at a time, which stay in the first cache."""
        parts, packed = length * per_tile, own + STAGE_BYTES
        scales, offsets = packed + PARTS * PART_BYTES, PARTS * scale_bytes
        for row in range(first, stop, ROWS):
            last, sums = min(ROWS, stop - row) - 1, zeros()
            for start in range(0, parts, PARTS):
                pack_eight(p0, p1, p2, p3, row, last, length, start, packed, scales, scales + offsets, own)
                for part in range(min(PARTS, parts - start)):
                    at, there = packed + PART_BYTES * part, scales + scale_bytes * part
                    sums = of_part(at, there, offsets, x + ARRANGED_BYTES * (start + part), sums)
            store_part(y + 4 * (row - first), sums, last + 1)

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
        y: int,
        y_stride: int,
        y_rows: int,
        rows: int,
        own: int,
        groups: int,
    ) -> None:
        if rows == 1:
            of_one_row(p0, p1, p2, p3, length, first, stop, x, row_at(y, y_stride, y_rows, 0), own)
            return
        parts, packed = length * per_tile, own + STAGE_BYTES
        whole = (parts + PARTS - 1) // PARTS * PARTS
        group_bytes = VECTOR * own_vectors * whole
        together = ROWS * groups if rows > TOGETHER else ROWS  # what is used once stays in the first cache
        for start in range(first, stop, together):
            end = min(stop, start + together)
            for row in range(start, end, ROWS):
                at = packed + (row - start) // ROWS * group_bytes
                pack(p0, p1, p2, p3, row, min(ROWS, end - row) - 1, length, at, own)
            for row in range(0, rows, TOGETHER):
                those = x + row // TOGETHER * parts * ARRANGED_BYTES
                for column in range(start, end, ROWS):
                    at = packed + (column - start) // ROWS * group_bytes
                    out, count = y + 4 * (column - first), end - column
                    of_group(at, parts, those, out, y_stride, y_rows, row, rows - row, count)

    return of_rows


def _of_group(weight_type: str) -> Any:
    """Makes products of 16 packed rows with up to eight arranged ones, the first of which has a number."""
    of_part = _of_part(weight_type)
    scale_bytes = VECTOR * min(2, FORMS[weight_type].vectors)

    @inlined
    def eight(
        packed: int, parts: int, x: int, y: int, y_stride: int, y_rows: int, row: int, rows: int, count: int
    ) -> None:
        whole = (parts + PARTS - 1) // PARTS * PARTS
        scales = packed + PART_BYTES * whole
        offsets = scale_bytes * whole
        a, b, c, d, e, f, g, h = (zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros())
        for part in range(parts):
            at, own, those = (
                packed + PART_BYTES * part,
                scales + scale_bytes * part,
                x + ARRANGED_BYTES * part,
            )
            a, b = of_part(at, own, offsets, those, a), of_part(at, own, offsets, those + 4, b)
            c, d = of_part(at, own, offsets, those + 8, c), of_part(at, own, offsets, those + 12, d)
            e, f = of_part(at, own, offsets, those + 16, e), of_part(at, own, offsets, those + 20, f)
            g, h = of_part(at, own, offsets, those + 24, g), of_part(at, own, offsets, those + 28, h)
        four_stored(y, y_stride, y_rows, row, rows, count, a, b, c, d)
        four_stored(y, y_stride, y_rows, row + 4, rows - 4, count, e, f, g, h)

    @inlined
    def four(
        packed: int, parts: int, x: int, y: int, y_stride: int, y_rows: int, row: int, rows: int, count: int
    ) -> None:
        whole = (parts + PARTS - 1) // PARTS * PARTS
        scales = packed + PART_BYTES * whole
        offsets = scale_bytes * whole
        a, b, c, d = zeros(), zeros(), zeros(), zeros()
        for part in range(parts):
            at, own, those = (
                packed + PART_BYTES * part,
                scales + scale_bytes * part,
                x + ARRANGED_BYTES * part,
            )
            a, b = of_part(at, own, offsets, those, a), of_part(at, own, offsets, those + 4, b)
            c, d = of_part(at, own, offsets, those + 8, c), of_part(at, own, offsets, those + 12, d)
        four_stored(y, y_stride, y_rows, row, rows, count, a, b, c, d)

    @inlined
    def of_group(
        packed: int, parts: int, x: int, y: int, y_stride: int, y_rows: int, row: int, rows: int, count: int
    ) -> None:
        if rows > 4 and num_vectors() > MOST_VECTORS:
            eight(packed, parts, x, y, y_stride, y_rows, row, rows, count)
        else:
            four(packed, parts, x, y, y_stride, y_rows, row, rows, count)
            if rows > 4:
                four(packed, parts, x + 16, y, y_stride, y_rows, row + 4, rows - 4, count)

    return of_group


@inlined
def four_stored(
    y: int, y_stride: int, y_rows: int, row: int, rows: int, count: int, a: Any, b: Any, c: Any, d: Any
) -> None:
    """Stores `count` products of each of four rows, of which there are so many at least."""
    if rows > 0:
        store_part(row_at(y, y_stride, y_rows, row), a, count)
    if rows > 1:
        store_part(row_at(y, y_stride, y_rows, row + 1), b, count)
    if rows > 2:
        store_part(row_at(y, y_stride, y_rows, row + 2), c, count)
    if rows > 3:
        store_part(row_at(y, y_stride, y_rows, row + 3), d, count)


def _of_part(weight_type: str) -> Any:
    """Makes what adds to sums the products of a part with one arranged row."""
    integers = FORMS[weight_type]
    dots = signed_dots if integers.is_signed else small_dots
    has_zero = int(integers.is_signed or integers.zero != 0)
    has_offsets, has_two = int(integers.has_offsets), int(integers.scales == 2)

    @inlined
    def half(packed: int, x: int, sums: Any) -> Any:
        sums = dots(sums, load_words(packed), word(x))
        sums = dots(sums, load_words(packed + VECTOR), word(x + HALF))
        sums = dots(sums, load_words(packed + 2 * VECTOR), word(x + 2 * HALF))
        return dots(sums, load_words(packed + 3 * VECTOR), word(x + 3 * HALF))

    @inlined
    def start(x: int) -> Any:
        return spread_word(word(x + STARTS) if has_zero > 0 else 0)

    @inlined
    def of_one_scale(packed: int, scales: int, offsets: int, x: int, sums: Any) -> Any:
        found = half(packed + 4 * VECTOR, x + 4 * HALF, half(packed, x, start(x)))
        products = times(from_words(found), load(scales))
        sums = multiply_add(products, spread(number(x + SCALES)), sums)
        if has_offsets > 0:
            sums = multiply_add(load(scales + VECTOR), spread(number(x + TOTALS)), sums)
        return sums

    @inlined
    def of_two_scales(packed: int, scales: int, offsets: int, x: int, sums: Any) -> Any:
        first = from_words(half(packed, x, start(x)))
        second = from_words(half(packed + 4 * VECTOR, x + 4 * HALF, start(x + HALF)))
        products = multiply_add(second, load(scales + VECTOR), times(first, load(scales)))
        sums = multiply_add(products, spread(number(x + SCALES)), sums)
        if has_offsets > 0:
            at = scales + offsets
            sums = multiply_add(load(at), spread(number(x + TOTALS)), sums)
            sums = multiply_add(load(at + VECTOR), spread(number(x + TOTALS + HALF)), sums)
        return sums

    return of_two_scales if has_two > 0 else of_one_scale
