"""Recurrent layers: their heads' states, and the norms around them."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.buffers.step import NO_SLOT
from tplaunch.worker.cpu.kernels.activations import silu
from tplaunch.worker.cpu.kernels.building import LANES
from tplaunch.worker.cpu.kernels.edges import load_part, store_part
from tplaunch.worker.cpu.kernels.functions import exponential, logistic, softplus
from tplaunch.worker.cpu.kernels.spans import own_share
from tplaunch.worker.cpu.kernels.vectors import (
    divided,
    minus,
    multiply_add,
    number,
    plus,
    put,
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


def unit_norm(
    vectors: int,
    stride: int,
    count: int,
    length: int,
    epsilon: float,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """Divides each of a row's vectors by the root of its squares and epsilon. Threads share vectors."""
    total_count = unsigned(num_rows) * count
    first, stop = own_share(total_count, thread, num_threads)
    for each in range(first, stop):
        place = vectors + each // count * stride + each % count * 4 * length
        squares = zeros()
        for at in range(0, 4 * length, VECTOR):
            found = load_part(place + at, length - at // 4)
            squares = multiply_add(found, found, squares)
        root = square_root(spread(total(squares) + epsilon))
        for at in range(0, 4 * length, VECTOR):
            left = length - at // 4
            store_part(place + at, divided(load_part(place + at, left), root), left)


def pace(
    times_of: int,
    times_stride: int,
    time_bias: int,
    decay_rate: int,
    delta: int,
    paces: int,
    paces_stride: int,
    heads: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """paces = of every row the decay of each head, then its time step, or for the delta rule its beta.

    Threads share rows.
    """
    first, stop = own_share(unsigned(num_rows), thread, num_threads)
    for row in range(first, stop):
        source, out = times_of + row * times_stride, paces + row * paces_stride
        for at in range(0, 4 * heads, VECTOR):
            left = heads - at // 4
            time = softplus(plus(load_part(source + at, left), load_part(time_bias + at, left)))
            store_part(out + at, exponential(times(load_part(decay_rate + at, left), time)), left)
            other = logistic(load_part(source + 4 * heads + at, left)) if delta else time
            store_part(out + 4 * heads + at, other, left)


def recur(
    queries: int,
    keys: int,
    values: int,
    stride: int,
    paces: int,
    paces_stride: int,
    skip: int,
    delta: int,
    scale: float,
    heads: int,
    first_head: int,
    divisor: int,
    modulus: int,
    first_group: int,
    head_length: int,
    state_length: int,
    state: int,
    output: int,
    output_stride: int,
    num_runs: int,
    run_starts: int,
    read_slots: int,
    write_slots: int,
    thread: int,
    num_threads: int,
) -> None:
    """Takes the heads' states through the rows of their sequences, as worker/ops/recurrent.py describes.

    Threads share the columns of all heads' states, each of which goes its own way.
    """
    vectors = (head_length + LANES - 1) // LANES
    row_bytes = 4 * head_length
    slot_bytes = row_bytes * state_length * heads
    first, stop = own_share(heads * vectors, thread, num_threads)
    for each in range(first, stop):
        head, vector = each // vectors, each % vectors
        at, left = head * row_bytes + VECTOR * vector, head_length - LANES * vector
        group = (first_head + head) // divisor % modulus - first_group
        own = head * row_bytes * state_length + VECTOR * vector
        for run in range(unsigned(num_runs)):
            held = state + unsigned(write_slots + 4 * run) * slot_bytes + own
            source = unsigned(read_slots + 4 * run)
            before = 0 if source == NO_SLOT else state + source * slot_bytes + own
            if before != held:
                _begin(before, held, row_bytes, state_length, left)
            for row in range(unsigned(run_starts + 4 * run), unsigned(run_starts + 4 * run + 4)):
                place, pace_of = (
                    row * stride + 4 * state_length * group,
                    paces + row * paces_stride + 4 * head,
                )
                value = load_part(values + row * stride + at, left)
                decay = spread(number(pace_of))
                addition = value
                if delta:
                    addition = minus(
                        value, times(decay, _recalled(held, row_bytes, keys + place, state_length, left))
                    )
                addition = times(spread(number(pace_of + 4 * heads)), addition)
                found = _updated(
                    held, row_bytes, keys + place, queries + place, decay, addition, state_length, left
                )
                found = times(found, spread(scale))
                if skip != 0:
                    found = multiply_add(spread(number(skip + 4 * head)), value, found)
                store_part(output + row * output_stride + at, found, left)


@inlined
def _begin(before: int, held: int, row_bytes: int, state_length: int, left: int) -> None:
    """Copies a state to where it goes on; 0 for one that begins as zeros."""
    for index in range(0, state_length * row_bytes, row_bytes):
        store_part(held + index, zeros() if before == 0 else load_part(before + index, left), left)


@inlined
def _recalled(held: int, row_bytes: int, key: int, state_length: int, left: int) -> Any:
    """Returns key x state, by four sums of every fourth element."""
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    for index in range(0, state_length, 4):
        place, part = held + index * row_bytes, key + 4 * index
        a = multiply_add(spread(number(part)), load_part(place, left), a)
        b = multiply_add(spread(number(part + 4)), load_part(place + row_bytes, left), b)
        c = multiply_add(spread(number(part + 8)), load_part(place + 2 * row_bytes, left), c)
        d = multiply_add(spread(number(part + 12)), load_part(place + 3 * row_bytes, left), d)
    return plus(plus(a, b), plus(c, d))


@inlined
def _updated(
    held: int,
    row_bytes: int,
    key: int,
    query: int,
    decay: Any,
    addition: Any,
    state_length: int,
    left: int,
) -> Any:
    """Makes the state decay * state + key x addition, and returns query x that, by four sums."""
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    for index in range(0, state_length, 4):
        place, part, asked = held + index * row_bytes, key + 4 * index, query + 4 * index
        a = multiply_add(spread(number(asked)), _renewed(place, part, decay, addition, left), a)
        place += row_bytes
        b = multiply_add(spread(number(asked + 4)), _renewed(place, part + 4, decay, addition, left), b)
        place += row_bytes
        c = multiply_add(spread(number(asked + 8)), _renewed(place, part + 8, decay, addition, left), c)
        place += row_bytes
        d = multiply_add(spread(number(asked + 12)), _renewed(place, part + 12, decay, addition, left), d)
    return plus(plus(a, b), plus(c, d))


@inlined
def _renewed(place: int, key: int, decay: Any, addition: Any, left: int) -> Any:
    found = multiply_add(spread(number(key)), addition, times(decay, load_part(place, left)))
    store_part(place, found, left)
    return found


def square_sums(
    values: int,
    values_stride: int,
    gates: int,
    gates_stride: int,
    heads: int,
    first_head: int,
    head_length: int,
    heads_per_group: int,
    num_groups: int,
    output: int,
    output_stride: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """output = the sum of squares of values * silu(gate) in each group. Threads share rows."""
    first, stop = own_share(unsigned(num_rows), thread, num_threads)
    for row in range(first, stop):
        out = output + row * output_stride
        for group in range(num_groups):
            put(out + 4 * group, 0.0)
        for head in range(heads):
            start, squares = 4 * head * head_length, zeros()
            for at in range(start, start + 4 * head_length, VECTOR):
                left = head_length - (at - start) // 4
                gate = silu(load_part(gates + row * gates_stride + at, left))
                found = times(load_part(values + row * values_stride + at, left), gate)
                squares = multiply_add(found, found, squares)
            group = out + 4 * ((first_head + head) // heads_per_group)
            put(group, number(group) + total(squares))


def gated_norm(
    values: int,
    values_stride: int,
    gates: int,
    gates_stride: int,
    weight: int,
    weight_stride: int,
    num_vectors: int,
    first_vector: int,
    length: int,
    vectors_per_group: int,
    epsilon: float,
    gate_first: int,
    sums: int,
    sums_stride: int,
    slot_stride: int,
    num_slots: int,
    output: int,
    output_stride: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """output = vectors of values over their root mean squares, times weight, gated before or behind that.

    sums: of squares of groups, in each of the slots; 0 where a vector is a group. Threads share vectors.
    """
    first_group = first_vector // vectors_per_group
    first, stop = own_share(unsigned(num_rows) * num_vectors, thread, num_threads)
    for each in range(first, stop):
        row, vector = each // num_vectors, each % num_vectors
        group, place = (
            (first_vector + vector) // vectors_per_group,
            (first_vector + vector) % vectors_per_group,
        )
        start = 4 * length * vector
        source, gate = values + row * values_stride + start, gates + row * gates_stride + start
        out = output + row * output_stride + start
        weights = weight + (group - first_group) * weight_stride + 4 * length * place
        squares = zeros()
        for at in range(0, 4 * length, VECTOR):
            left = length - at // 4
            found = load_part(source + at, left)
            if gate_first:
                found = times(found, silu(load_part(gate + at, left)))
            squares = multiply_add(found, found, squares)
            store_part(out + at, found, left)
        square = total(squares)
        if sums != 0:
            square = number(sums + row * sums_stride + 4 * group)
            for slot in range(1, num_slots):
                square += number(sums + slot * slot_stride + row * sums_stride + 4 * group)
        root = square_root(spread(square / (vectors_per_group * length) + epsilon))
        for at in range(0, 4 * length, VECTOR):
            left = length - at // 4
            found = times(divided(load_part(out + at, left), root), load_part(weights + at, left))
            if not gate_first:
                found = times(found, silu(load_part(gate + at, left)))
            store_part(out + at, found, left)
