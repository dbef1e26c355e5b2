"""Queries and keys in a row before they are cached: clamped, normalised, rotated, copied."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from tplaunch.worker.cpu.kernels.edges import load_part, store_part
from tplaunch.worker.cpu.kernels.lanes import evens, first_pairs, last_pairs, odds, within
from tplaunch.worker.cpu.kernels.spans import copy, own_share
from tplaunch.worker.cpu.kernels.vectors import (
    divided,
    larger,
    minus,
    multiply_add,
    number,
    plus,
    put,
    smaller,
    spread,
    square_root,
    times,
    total,
    unsigned,
    zeros,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)


class Rotation(NamedTuple):
    """The part of a head that rotates: its first element, its length, and if pairs are neighbours."""

    start: int
    dimension: int
    interleaved: int


@inlined
def rotate_head(source: int, target: int, length: int, table: int, rotation: Rotation) -> None:
    """Rotates a head on its way to where it may lie already; a table has cosines and sines alternately."""
    if source != target:
        copy(source, target, length)
    half = rotation.dimension // 2
    first = source + 4 * rotation.start
    out = target + 4 * rotation.start
    for pair in range(0, half, 16):
        left = half - pair
        one, other = load_part(table + 8 * pair, 2 * left), load_part(table + 8 * pair + 64, 2 * left - 16)
        cosine, sine = evens(one, other), odds(one, other)
        if rotation.interleaved != 0:
            at = 8 * pair
            one, other = load_part(first + at, 2 * left), load_part(first + at + 64, 2 * left - 16)
            a, b = evens(one, other), odds(one, other)
            x = minus(times(a, cosine), times(b, sine))
            y = plus(times(a, sine), times(b, cosine))
            store_part(out + at, first_pairs(x, y), 2 * left)
            store_part(out + at + 64, last_pairs(x, y), 2 * left - 16)
        else:
            at, beyond = 4 * pair, 4 * (half + pair)
            a, b = load_part(first + at, left), load_part(first + beyond, left)
            store_part(out + at, minus(times(a, cosine), times(b, sine)), left)
            store_part(out + beyond, plus(times(a, sine), times(b, cosine)), left)


def rotate(
    rows: int,
    stride: int,
    num_heads: int,
    query_bytes: int,
    num_kv_heads: int,
    key_length: int,
    first_key: int,
    table: int,
    table_stride: int,
    start: int,
    dimension: int,
    interleaved: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """Rotates queries and keys in place; `query_bytes` are from one query to the next."""
    rotation, items = Rotation(start, dimension, interleaved), num_heads + num_kv_heads
    first, stop = own_share(unsigned(num_rows) * items, thread, num_threads)
    for item in range(first, stop):
        row, head = item // items, item % items
        at = rows + row * stride + _place(head, num_heads, query_bytes, first_key, key_length)
        rotate_head(at, at, key_length, table + row * table_stride, rotation)


@inlined
def _place(head: int, num_heads: int, query_bytes: int, first_key: int, key_length: int) -> int:
    """Returns where a query, or a key behind all of them, lies in a row."""
    if head < num_heads:
        return head * query_bytes
    return first_key + 4 * key_length * (head - num_heads)


def clamp(
    rows: int, stride: int, columns: int, limit: float, num_rows: int, thread: int, num_threads: int
) -> None:
    """Bounds the first columns of rows."""
    first, stop = own_share(unsigned(num_rows), thread, num_threads)
    for row in range(first, stop):
        for index in range(0, columns, 16):
            at, left = rows + row * stride + 4 * index, columns - index
            bounded = smaller(spread(limit), larger(spread(-limit), load_part(at, left)))
            store_part(at, bounded, left)


def head_sums(
    rows: int,
    stride: int,
    num_heads: int,
    query_bytes: int,
    num_kv_heads: int,
    key_length: int,
    first_key: int,
    skipped: int,
    output: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """Writes the sum and the sum of squares of a row's queries, and of its keys without some first ones."""
    first, stop = own_share(unsigned(num_rows), thread, num_threads)
    for row in range(first, stop):
        start, out = rows + row * stride, output + 16 * row
        _sums(start, num_heads, query_bytes, key_length, out)
        keys = start + first_key + 4 * key_length * skipped
        _sums(keys, num_kv_heads - skipped, 4 * key_length, key_length, out + 8)


@inlined
def _sums(heads: int, count: int, distance: int, length: int, out: int) -> None:
    sums, squares = zeros(), zeros()
    for head in range(count):
        for index in range(0, length, 16):
            elements = load_part(heads + head * distance + 4 * index, length - index)
            sums, squares = plus(sums, elements), multiply_add(elements, elements, squares)
    put(out, total(sums))
    put(out + 4, total(squares))


def head_norm(
    rows: int,
    stride: int,
    num_heads: int,
    query_bytes: int,
    num_kv_heads: int,
    key_length: int,
    first_key: int,
    query_weight: int,
    query_bias: int,
    key_weight: int,
    key_bias: int,
    weight_bytes: int,
    is_layer: int,
    epsilon: float,
    sums: int,
    sums_stride: int,
    num_sums: int,
    query_count: int,
    key_count: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """Normalises queries and keys in place, by their own elements, or by the sums of `num_sums` ranks.

    Weights and biases of a head are `weight_bytes` behind those of the one before; 0 where there are none.
    """
    items = num_heads + num_kv_heads
    first, stop = own_share(unsigned(num_rows) * items, thread, num_threads)
    for item in range(first, stop):
        row, head = item // items, item % items
        at = rows + row * stride + _place(head, num_heads, query_bytes, first_key, key_length)
        weight, bias, count, own, part = query_weight, query_bias, query_count, head, 0
        if head >= num_heads:
            weight, bias, count, own, part = key_weight, key_bias, key_count, head - num_heads, 8
        if num_sums > 0:
            mean, square = _of_ranks(sums + 16 * row + part, sums_stride, num_sums, count, is_layer)
        else:
            mean, square = _of_head(at, key_length, is_layer)
        deviation = square_root(plus(square, spread(epsilon)))
        for index in range(0, key_length, 16):
            place, left = at + 4 * index, key_length - index
            normed = divided(minus(load_part(place, left), mean), deviation)
            if weight != 0:
                normed = times(normed, load_part(weight + own * weight_bytes + 4 * index, left))
            if bias != 0:
                normed = plus(normed, load_part(bias + own * weight_bytes + 4 * index, left))
            store_part(place, normed, left)


@inlined
def _of_head(head: int, length: int, is_layer: int) -> Any:
    """Returns the mean to subtract from a head's elements, and the mean square of the remainder."""
    count, mean, squares = spread(length), zeros(), zeros()
    if is_layer != 0:
        sums = zeros()
        for index in range(0, length, 16):
            sums = plus(sums, load_part(head + 4 * index, length - index))
        mean = divided(spread(total(sums)), count)
    for index in range(0, length, 16):
        rest = minus(load_part(head + 4 * index, length - index), mean)
        rest = within(rest, 0, min(16, length - index), zeros())
        squares = multiply_add(rest, rest, squares)
    return mean, divided(spread(total(squares)), count)


@inlined
def _of_ranks(sums: int, stride: int, num_sums: int, length: int, is_layer: int) -> Any:
    """Returns the same of a row of `length` elements, by its sums and sums of squares, rank after rank."""
    elements, squares, count = zeros(), zeros(), spread(length)
    for rank in range(num_sums):
        elements = plus(elements, spread(number(sums + rank * stride)))
        squares = plus(squares, spread(number(sums + rank * stride + 4)))
    mean = zeros()
    if is_layer != 0:
        mean = divided(elements, count)
    return mean, minus(divided(squares, count), times(mean, mean))


def copy_heads(
    source: int,
    source_row: int,
    source_head: int,
    target: int,
    target_row: int,
    target_head: int,
    num_heads: int,
    length: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """Copies parts of heads; there are so many bytes from row to row and from head to head."""
    first, stop = own_share(unsigned(num_rows) * num_heads, thread, num_threads)
    for item in range(first, stop):
        row, head = item // num_heads, item % num_heads
        out = target + row * target_row + head * target_head
        copy(source + row * source_row + head * source_head, out, length)
