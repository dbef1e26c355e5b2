"""Sums of values by the softmax's weights: key after key is added to each element."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.cpu.kernels.cells import Cells, load_f32
from tplaunch.worker.cpu.kernels.edges import load_part
from tplaunch.worker.cpu.kernels.functions import exponential
from tplaunch.worker.cpu.kernels.vectors import (
    larger,
    load,
    minus,
    multiply_add,
    number,
    plus,
    spread,
    store,
    times,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
KEY_BYTES = 4  # of a weight


def of_one(load_chunk: Any) -> Any:
    """Makes what adds neighbouring cells of a type to one query's sums, by the weights from an address on."""

    @inlined
    def add(weights: int, count: int, cells: Cells, cell: int, sums: int, chunks: int) -> None:
        chunk = 0
        while chunk + 4 <= chunks:
            at = sums + 64 * chunk
            a, b, c, d = load(at), load(at + 64), load(at + 128), load(at + 192)
            for key in range(count):
                weight = spread(number(weights + KEY_BYTES * key))
                a = multiply_add(weight, load_chunk(cells, cell + key, chunk), a)
                b = multiply_add(weight, load_chunk(cells, cell + key, chunk + 1), b)
                c = multiply_add(weight, load_chunk(cells, cell + key, chunk + 2), c)
                d = multiply_add(weight, load_chunk(cells, cell + key, chunk + 3), d)
            store(at, a)
            store(at + 64, b)
            store(at + 128, c)
            store(at + 192, d)
            chunk += 4
        while chunk < chunks:
            a = load(sums + 64 * chunk)
            for key in range(count):
                weight = spread(number(weights + KEY_BYTES * key))
                a = multiply_add(weight, load_chunk(cells, cell + key, chunk), a)
            store(sums + 64 * chunk, a)
            chunk += 1

    return add


add_floats = of_one(load_f32)


@inlined
def of_four(
    weights: int,
    stride: int,
    count: int,
    values: int,
    value_stride: int,
    sums: int,
    sums_stride: int,
    chunks: int,
) -> None:
    """Adds values of float32 to the sums of four queries; their weights are `stride` bytes apart."""
    chunk = 0
    while chunk + 4 <= chunks:
        _four_chunks(
            weights, stride, count, values + 64 * chunk, value_stride, sums + 64 * chunk, sums_stride
        )
        chunk += 4
    while chunk < chunks:
        _one_chunk(weights, stride, count, values + 64 * chunk, value_stride, sums + 64 * chunk, sums_stride)
        chunk += 1


@inlined
def _four_chunks(
    weights: int, stride: int, count: int, values: int, value_stride: int, sums: int, sums_stride: int
) -> None:
    first, second, third = sums + sums_stride, sums + 2 * sums_stride, sums + 3 * sums_stride
    a0, a1, a2, a3 = load(sums), load(sums + 64), load(sums + 128), load(sums + 192)
    b0, b1, b2, b3 = load(first), load(first + 64), load(first + 128), load(first + 192)
    c0, c1, c2, c3 = load(second), load(second + 64), load(second + 128), load(second + 192)
    d0, d1, d2, d3 = load(third), load(third + 64), load(third + 128), load(third + 192)
    for key in range(count):
        value, weight = values + value_stride * key, weights + KEY_BYTES * key
        v0, v1, v2, v3 = load(value), load(value + 64), load(value + 128), load(value + 192)
        w = spread(number(weight))
        a0, a1 = multiply_add(w, v0, a0), multiply_add(w, v1, a1)
        a2, a3 = multiply_add(w, v2, a2), multiply_add(w, v3, a3)
        w = spread(number(weight + stride))
        b0, b1 = multiply_add(w, v0, b0), multiply_add(w, v1, b1)
        b2, b3 = multiply_add(w, v2, b2), multiply_add(w, v3, b3)
        w = spread(number(weight + 2 * stride))
        c0, c1 = multiply_add(w, v0, c0), multiply_add(w, v1, c1)
        c2, c3 = multiply_add(w, v2, c2), multiply_add(w, v3, c3)
        w = spread(number(weight + 3 * stride))
        d0, d1 = multiply_add(w, v0, d0), multiply_add(w, v1, d1)
        d2, d3 = multiply_add(w, v2, d2), multiply_add(w, v3, d3)
    _store_four(sums, a0, a1, a2, a3)
    _store_four(first, b0, b1, b2, b3)
    _store_four(second, c0, c1, c2, c3)
    _store_four(third, d0, d1, d2, d3)


@inlined
def _store_four(address: int, a: Any, b: Any, c: Any, d: Any) -> None:
    store(address, a)
    store(address + 64, b)
    store(address + 128, c)
    store(address + 192, d)


@inlined
def _one_chunk(
    weights: int, stride: int, count: int, values: int, value_stride: int, sums: int, sums_stride: int
) -> None:
    first, second, third = sums + sums_stride, sums + 2 * sums_stride, sums + 3 * sums_stride
    a, b, c, d = load(sums), load(first), load(second), load(third)
    for key in range(count):
        value, weight = load(values + value_stride * key), weights + KEY_BYTES * key
        a = multiply_add(spread(number(weight)), value, a)
        b = multiply_add(spread(number(weight + stride)), value, b)
        c = multiply_add(spread(number(weight + 2 * stride)), value, c)
        d = multiply_add(spread(number(weight + 3 * stride)), value, d)
    store(sums, a)
    store(first, b)
    store(second, c)
    store(third, d)


@inlined
def fold(
    sums: int, most: Any, weight: Any, added: int, added_most: Any, added_weight: Any, length: int
) -> Any:
    """Folds a part's sums of `length` elements, its maximum and its weight to those before it.

    Returns the maximum and the weight of both. Sums are in whole vectors, added ones need not be. What has no
    keys yet, EMPTY_MAXIMUM and zeros, leaves the part's own bits.
    """
    both = larger(most, added_most)
    kept, scale = exponential(minus(most, both)), exponential(minus(added_most, both))
    for index in range(0, length, 16):
        at = sums + 4 * index
        part = load_part(added + 4 * index, length - index)
        store(at, multiply_add(part, scale, times(load(at), kept)))
    return both, plus(times(weight, kept), times(added_weight, scale))
