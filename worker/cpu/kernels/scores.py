"""Scores of query vectors with keys, and the softmax of a cut's.

A score is the sum of one vector's lanes, to which the products of 16 elements after the other were added: so
it is the same bits whichever function here computes it.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.cpu.kernels.cells import Cells, load_f32
from tplaunch.worker.cpu.kernels.functions import exponential, hyperbolic_tangent
from tplaunch.worker.cpu.kernels.lanes import numbers, store_quarters, totals, within
from tplaunch.worker.cpu.kernels.vectors import (
    divided,
    larger,
    largest,
    load,
    minus,
    multiply_add,
    plus,
    spread,
    store,
    times,
    total,
    zeros,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
EMPTY_MAXIMUM = -3e38  # as in worker/numpy/attention.py


def with_sixteen_keys(load_chunk: Any) -> Any:
    """Makes what returns the scores of one query with neighbouring cells of a type."""

    @inlined
    def scores(query: int, cells: Cells, cell: int, chunks: int) -> Any:
        a, b, c, d, e, f, g, h = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
        for chunk in range(chunks):
            q = load(query + 64 * chunk)
            a = multiply_add(q, load_chunk(cells, cell, chunk), a)
            b = multiply_add(q, load_chunk(cells, cell + 1, chunk), b)
            c = multiply_add(q, load_chunk(cells, cell + 2, chunk), c)
            d = multiply_add(q, load_chunk(cells, cell + 3, chunk), d)
            e = multiply_add(q, load_chunk(cells, cell + 4, chunk), e)
            f = multiply_add(q, load_chunk(cells, cell + 5, chunk), f)
            g = multiply_add(q, load_chunk(cells, cell + 6, chunk), g)
            h = multiply_add(q, load_chunk(cells, cell + 7, chunk), h)
        i, j, k, m, n, o, p, r = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
        for chunk in range(chunks):
            q = load(query + 64 * chunk)
            i = multiply_add(q, load_chunk(cells, cell + 8, chunk), i)
            j = multiply_add(q, load_chunk(cells, cell + 9, chunk), j)
            k = multiply_add(q, load_chunk(cells, cell + 10, chunk), k)
            m = multiply_add(q, load_chunk(cells, cell + 11, chunk), m)
            n = multiply_add(q, load_chunk(cells, cell + 12, chunk), n)
            o = multiply_add(q, load_chunk(cells, cell + 13, chunk), o)
            p = multiply_add(q, load_chunk(cells, cell + 14, chunk), p)
            r = multiply_add(q, load_chunk(cells, cell + 15, chunk), r)
        return totals(a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, r)

    return scores


with_sixteen_floats = with_sixteen_keys(load_f32)


@inlined
def four_by_four(
    query: int, query_stride: int, keys: int, key_stride: int, chunks: int, scores: int, scores_stride: int
) -> None:
    """Writes the scores of four queries with four keys of float32."""
    a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
    b0, b1, b2, b3 = zeros(), zeros(), zeros(), zeros()
    c0, c1, c2, c3 = zeros(), zeros(), zeros(), zeros()
    d0, d1, d2, d3 = zeros(), zeros(), zeros(), zeros()
    for at in range(0, 64 * chunks, 64):
        k0, k1 = load(keys + at), load(keys + key_stride + at)
        k2, k3 = load(keys + 2 * key_stride + at), load(keys + 3 * key_stride + at)
        q = load(query + at)
        a0, a1 = multiply_add(q, k0, a0), multiply_add(q, k1, a1)
        a2, a3 = multiply_add(q, k2, a2), multiply_add(q, k3, a3)
        q = load(query + query_stride + at)
        b0, b1 = multiply_add(q, k0, b0), multiply_add(q, k1, b1)
        b2, b3 = multiply_add(q, k2, b2), multiply_add(q, k3, b3)
        q = load(query + 2 * query_stride + at)
        c0, c1 = multiply_add(q, k0, c0), multiply_add(q, k1, c1)
        c2, c3 = multiply_add(q, k2, c2), multiply_add(q, k3, c3)
        q = load(query + 3 * query_stride + at)
        d0, d1 = multiply_add(q, k0, d0), multiply_add(q, k1, d1)
        d2, d3 = multiply_add(q, k2, d2), multiply_add(q, k3, d3)
    found = totals(a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3)
    store_quarters(
        scores, scores + scores_stride, scores + 2 * scores_stride, scores + 3 * scores_stride, found
    )


@inlined
def softmax(scores: int, first: int, stop: int, softcap: float, slope: float, distance: int) -> Any:
    """Makes weights of the scores from `first` up to `stop`, and zeros around them, to whole vectors.

    Returns the largest score and the sum of the weights, each in all lanes. `distance` is the position of the
    scores' first key, counted from the row's own.
    """
    most = spread(EMPTY_MAXIMUM)
    start = first - first % 16
    for index in range(start, stop, 16):
        found = load(scores + 4 * index)
        if softcap != 0.0:
            cap = spread(softcap)
            found = times(cap, hyperbolic_tangent(divided(found, cap)))
        if slope != 0.0:
            distances = plus(spread(distance + index), numbers())
            found = multiply_add(spread(slope), distances, found)
        found = within(found, first - index, stop - index, spread(EMPTY_MAXIMUM))
        store(scores + 4 * index, found)
        most = larger(found, most)
    most, sums = spread(largest(most)), zeros()
    for index in range(start, stop, 16):
        weights = exponential(minus(load(scores + 4 * index), most))
        weights = within(weights, first - index, stop - index, zeros())
        store(scores + 4 * index, weights)
        sums = plus(sums, weights)
    return most, spread(total(sums))
