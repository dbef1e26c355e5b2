"""Products of rows of float32 with rows of a matrix as float32, a few of both at a time.

Every product is the sum of one vector's lanes, to which columns were added in vectors of 16 from the first
on, however many rows are at hand. Rows are found by their numbers in a list, or are all from an address on.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.cpu.kernels.quants import num_vectors
from tplaunch.worker.cpu.kernels.vectors import load, multiply_add, put, total, unsigned, zeros
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
GROUP = 4  # rows of the matrix that are multiplied at once
MOST_VECTORS = 16  # more vectors than these take four rows of both at once


@inlined
def row_at(start: int, stride: int, numbers: int, row: int) -> int:
    """Returns the address of a row by its place in a list of numbers, which 0 stands for all rows of."""
    return start + stride * (row if numbers == 0 else unsigned(numbers + 4 * row))


@inlined
def tiles(
    w: int,
    length: int,
    count: int,
    x: int,
    x_stride: int,
    x_rows: int,
    y: int,
    y_stride: int,
    y_rows: int,
    rows: int,
) -> None:
    """y[row] = x[row] times `count` rows of `length` bytes each, which lie one after another."""
    row = 0
    if num_vectors() > MOST_VECTORS:
        while row + 4 <= rows:
            x0, x1 = row_at(x, x_stride, x_rows, row), row_at(x, x_stride, x_rows, row + 1)
            x2, x3 = row_at(x, x_stride, x_rows, row + 2), row_at(x, x_stride, x_rows, row + 3)
            y0, y1 = row_at(y, y_stride, y_rows, row), row_at(y, y_stride, y_rows, row + 1)
            y2, y3 = row_at(y, y_stride, y_rows, row + 2), row_at(y, y_stride, y_rows, row + 3)
            for each in range(0, count - 3, 4):
                at, out = w + each * length, 4 * each
                _four_by_four(at, length, x0, x1, x2, x3, y0 + out, y1 + out, y2 + out, y3 + out)
            for each in range(count // 4 * 4, count):
                at, out = w + each * length, 4 * each
                _single(at, length, x0, y0 + out)
                _single(at, length, x1, y1 + out)
                _single(at, length, x2, y2 + out)
                _single(at, length, x3, y3 + out)
            row += 4
    else:
        while row + 2 <= rows:
            x0, x1 = row_at(x, x_stride, x_rows, row), row_at(x, x_stride, x_rows, row + 1)
            y0, y1 = row_at(y, y_stride, y_rows, row), row_at(y, y_stride, y_rows, row + 1)
            for each in range(0, count - 1, 2):
                _two_by_two(w + each * length, length, x0, x1, y0 + 4 * each, y1 + 4 * each)
            if count % 2 == 1:
                at, out = w + (count - 1) * length, 4 * (count - 1)
                _single(at, length, x0, y0 + out)
                _single(at, length, x1, y1 + out)
            row += 2
    while row < rows:
        at, out = row_at(x, x_stride, x_rows, row), row_at(y, y_stride, y_rows, row)
        for each in range(0, count - 3, 4):
            _four_by_one(w + each * length, length, at, out + 4 * each)
        for each in range(count // 4 * 4, count):
            _single(w + each * length, length, at, out + 4 * each)
        row += 1


@inlined
def _four_by_four(
    w: int, length: int, x0: int, x1: int, x2: int, x3: int, y0: int, y1: int, y2: int, y3: int
) -> None:
    a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
    b0, b1, b2, b3 = zeros(), zeros(), zeros(), zeros()
    c0, c1, c2, c3 = zeros(), zeros(), zeros(), zeros()
    d0, d1, d2, d3 = zeros(), zeros(), zeros(), zeros()
    for at in range(0, length, 64):
        w0, w1 = load(w + at), load(w + length + at)
        w2, w3 = load(w + 2 * length + at), load(w + 3 * length + at)
        v = load(x0 + at)
        a0, a1 = multiply_add(v, w0, a0), multiply_add(v, w1, a1)
        a2, a3 = multiply_add(v, w2, a2), multiply_add(v, w3, a3)
        v = load(x1 + at)
        b0, b1 = multiply_add(v, w0, b0), multiply_add(v, w1, b1)
        b2, b3 = multiply_add(v, w2, b2), multiply_add(v, w3, b3)
        v = load(x2 + at)
        c0, c1 = multiply_add(v, w0, c0), multiply_add(v, w1, c1)
        c2, c3 = multiply_add(v, w2, c2), multiply_add(v, w3, c3)
        v = load(x3 + at)
        d0, d1 = multiply_add(v, w0, d0), multiply_add(v, w1, d1)
        d2, d3 = multiply_add(v, w2, d2), multiply_add(v, w3, d3)
    put_four(y0, a0, a1, a2, a3)
    put_four(y1, b0, b1, b2, b3)
    put_four(y2, c0, c1, c2, c3)
    put_four(y3, d0, d1, d2, d3)


@inlined
def _two_by_two(w: int, length: int, x0: int, x1: int, y0: int, y1: int) -> None:
    a0, a1, b0, b1 = zeros(), zeros(), zeros(), zeros()
    for at in range(0, length, 64):
        w0, w1, v, u = load(w + at), load(w + length + at), load(x0 + at), load(x1 + at)
        a0, a1 = multiply_add(v, w0, a0), multiply_add(v, w1, a1)
        b0, b1 = multiply_add(u, w0, b0), multiply_add(u, w1, b1)
    put(y0, total(a0))
    put(y0 + 4, total(a1))
    put(y1, total(b0))
    put(y1 + 4, total(b1))


@inlined
def _four_by_one(w: int, length: int, x: int, y: int) -> None:
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    for at in range(0, length, 64):
        v = load(x + at)
        a, b = multiply_add(v, load(w + at), a), multiply_add(v, load(w + length + at), b)
        c = multiply_add(v, load(w + 2 * length + at), c)
        d = multiply_add(v, load(w + 3 * length + at), d)
    put_four(y, a, b, c, d)


@inlined
def _single(w: int, length: int, x: int, y: int) -> None:
    a = zeros()
    for at in range(0, length, 64):
        a = multiply_add(load(x + at), load(w + at), a)
    put(y, total(a))


@inlined
def put_four(y: int, a: Any, b: Any, c: Any, d: Any) -> None:
    """Writes the sums of four vectors' lanes, one after another."""
    put(y, total(a))
    put(y + 4, total(b))
    put(y + 8, total(c))
    put(y + 12, total(d))
