"""Rows of activations: sums with norms, sums of ranks' slots, and what follows products."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.cpu.kernels.activations import activated, activated_gate
from tplaunch.worker.cpu.kernels.building import LANES
from tplaunch.worker.cpu.kernels.edges import load_part, store_part
from tplaunch.worker.cpu.kernels.functions import hyperbolic_tangent
from tplaunch.worker.cpu.kernels.spans import own_share
from tplaunch.worker.cpu.kernels.vectors import (
    divided,
    minus,
    multiply_add,
    plus,
    spread,
    square_root,
    times,
    total,
    unsigned,
    zeros,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
VECTOR = 4 * LANES  # bytes


def sum_norm(
    source: int,
    source_stride: int,
    addend: int,
    addend_stride: int,
    slot_stride: int,
    num_slots: int,
    hidden: int,
    hidden_stride: int,
    output: int,
    output_stride: int,
    weight: int,
    bias: int,
    width: int,
    epsilon: float,
    is_layer: int,
    chosen: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """hidden = source + the sum of the addend's slots; output = norm of hidden, times weight, plus bias.

    Addresses are 0 for what there is not. `chosen`: of the numbers of the rows that are meant. Threads share
    rows.
    """
    count = unsigned(num_rows)
    first, stop = own_share(count, thread, num_threads)
    for index in range(first, stop):
        row = index if chosen == 0 else unsigned(chosen + 4 * index)
        out, kept = output + index * output_stride, hidden + row * hidden_stride
        one, other = source + row * source_stride, addend + row * addend_stride
        sums, squares = zeros(), zeros()
        for at in range(0, 4 * width, VECTOR):
            left = width - at // 4
            if num_slots == 0:
                found = load_part(one + at, left)
            else:
                found = load_part(other + at, left)
                for slot in range(1, num_slots):
                    found = plus(found, load_part(other + slot * slot_stride + at, left))
                if source != 0:
                    found = plus(load_part(one + at, left), found)
            if hidden != 0:
                store_part(kept + at, found, left)
            store_part(out + at, found, left)
            sums, squares = plus(sums, found), multiply_add(found, found, squares)
        if weight == 0:
            continue
        if is_layer:
            squares = _centre(out, width, total(sums) / width)
        root = square_root(spread(total(squares) / width + epsilon))
        for at in range(0, 4 * width, VECTOR):
            left = width - at // 4
            found = times(divided(load_part(out + at, left), root), load_part(weight + at, left))
            if bias != 0:
                found = plus(found, load_part(bias + at, left))
            store_part(out + at, found, left)


@inlined
def _centre(row: int, width: int, mean: float) -> Any:
    """Takes the mean away from a row, and returns the sums of the remainder's squares."""
    squares, mean_vector = zeros(), spread(mean)
    for at in range(0, 4 * width, VECTOR):
        left = width - at // 4
        found = minus(load_part(row + at, left), mean_vector)
        store_part(row + at, found, left)
        # Beyond the end of the row lanes are not zero any more.
        kept = load_part(row + at, left)
        squares = multiply_add(kept, kept, squares)
    return squares


def add_slots(
    slots: int,
    slot_stride: int,
    num_slots: int,
    output: int,
    row_length: int,
    unit: int,
    part: int,
    num_parts: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """output = the sum of all slots, from left to right: a part of as many units as their rows have together.

    The output may be the first slot. Threads share units, which are whole vectors.
    """
    count = unsigned(num_rows) * row_length
    units = (count + unit - 1) // unit
    first, stop = own_share(units, part, num_parts)
    own = first + (stop - first) * thread // num_threads
    end = min(count, unit * (first + (stop - first) * (thread + 1) // num_threads))
    for index in range(unit * own, end, LANES):
        left, at = end - index, slots + 4 * index
        found = load_part(at, left)
        for slot in range(1, num_slots):
            found = plus(found, load_part(at + slot * slot_stride, left))
        store_part(output + 4 * index, found, left)


def clear(output: int, output_stride: int, length: int, num_rows: int, thread: int, num_threads: int) -> None:
    """output = zeros, of every row. Threads share rows."""
    count = unsigned(num_rows)
    first, stop = own_share(count, thread, num_threads)
    for row in range(first, stop):
        for at in range(0, 4 * length, VECTOR):
            store_part(output + row * output_stride + at, zeros(), length - at // 4)


def finish(
    products: int,
    products_stride: int,
    scales: int,
    bias: int,
    scale: float,
    activation: int,
    gated: int,
    divisors: int,
    softcap: float,
    accumulates: int,
    output: int,
    output_stride: int,
    columns: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """output = what worker/ops/common.py has MatMul and Activate make of products.

    Addresses are 0 for what there is not; ups lie `columns` behind their gates. Threads share columns.
    """
    vectors = (columns + LANES - 1) // LANES
    first, stop = own_share(vectors, thread, num_threads)
    for row in range(unsigned(num_rows)):
        gates, out = products + row * products_stride, output + row * output_stride
        for at in range(VECTOR * first, VECTOR * stop, VECTOR):
            left = columns - at // 4
            found = _product(gates, scales, bias, scale, at, left)
            if gated:
                up = _product(gates, scales, bias, scale, at + 4 * columns, left)
                found = activated_gate(activation, found, up)
            else:
                found = activated(activation, found)
            if divisors != 0:
                found = divided(found, load_part(divisors + at, left))
            if softcap > 0:
                cap = spread(softcap)
                found = times(cap, hyperbolic_tangent(divided(found, cap)))
            if accumulates:
                found = plus(load_part(out + at, left), found)
            store_part(out + at, found, left)


@inlined
def _product(products: int, scales: int, bias: int, scale: float, at: int, left: int) -> Any:
    """Returns products, scaled and with the bias."""
    found = load_part(products + at, left)
    if scales != 0:
        found = times(found, load_part(scales + at, left))
    if bias != 0:
        found = plus(found, load_part(bias + at, left))
    return times(found, spread(scale))
