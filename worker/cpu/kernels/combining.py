"""Puts the parts of attention together."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.buffers.cuts import CHUNK
from tplaunch.worker.cpu.kernels.edges import load_part, store_part
from tplaunch.worker.cpu.kernels.functions import exponential, logistic
from tplaunch.worker.cpu.kernels.parts import Step, part_of, position_of, slot_of
from tplaunch.worker.cpu.kernels.scores import EMPTY_MAXIMUM
from tplaunch.worker.cpu.kernels.spans import own_share
from tplaunch.worker.cpu.kernels.vectors import (
    divided,
    larger,
    load,
    minus,
    number,
    plus,
    spread,
    store,
    times,
    unsigned,
    zeros,
)
from tplaunch.worker.cpu.kernels.weighted import fold
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)


def combine(
    sums: int,
    scales: int,
    num_heads: int,
    value_length: int,
    output: int,
    output_stride: int,
    gates: int,
    gates_stride: int,
    sinks: int,
    num_rows: int,
    part_length: int,
    short_cuts: int,
    positions: int,
    slot_starts: int,
    table_starts: int,
    scratch: int,
    scratch_bytes: int,
    thread: int,
    num_threads: int,
) -> None:
    """Folds parts into chunks, and these, from left to right; sinks take a part, gates are applied.

    Gates lie behind each head's query, as long as it; their address is that of the first, 0 for none.
    """
    step = Step(num_rows, part_length, short_cuts, positions, slot_starts, table_starts)
    own = scratch + thread * scratch_bytes
    first, stop = own_share(unsigned(num_rows) * num_heads, thread, num_threads)
    for item in range(first, stop):
        row, head = item // num_heads, item % num_heads
        weight = _folded(
            step, row, head, num_heads, value_length, sums, scales, sinks, own, own + scratch_bytes // 2
        )
        for index in range(0, value_length, 16):
            attended, left = divided(load(own + 4 * index), weight), value_length - index
            if gates != 0:
                gate = gates + row * gates_stride + 4 * (2 * head * value_length + index)
                attended = times(attended, logistic(load_part(gate, left)))
            store_part(output + row * output_stride + 4 * (head * value_length + index), attended, left)


@inlined
def _folded(
    step: Step,
    row: int,
    head: int,
    num_heads: int,
    length: int,
    sums: int,
    scales: int,
    sinks: int,
    total: int,
    chunk: int,
) -> Any:
    """Writes a head's sums of all parts to `total`, and returns their weight in all lanes."""
    most, weight = spread(EMPTY_MAXIMUM), zeros()
    chunk_most, chunk_weight = spread(EMPTY_MAXIMUM), zeros()
    _clear(total, length)
    _clear(chunk, length)
    keys, slot = part_of(step, row), slot_of(step, row)
    for part in range(position_of(step, row) // keys + 1):
        place = (slot + part) * num_heads + head
        if part > 0 and part * keys % CHUNK == 0:
            most, weight = fold(total, most, weight, chunk, chunk_most, chunk_weight, length)
            chunk_most, chunk_weight = spread(EMPTY_MAXIMUM), zeros()
            _clear(chunk, length)
        if number(scales + 8 * place + 4) != 0:  # what has no keys left no sums
            part_most, part_weight = (
                spread(number(scales + 8 * place)),
                spread(number(scales + 8 * place + 4)),
            )
            part_sums = sums + 4 * place * length
            chunk_most, chunk_weight = fold(
                chunk, chunk_most, chunk_weight, part_sums, part_most, part_weight, length
            )
    most, weight = fold(total, most, weight, chunk, chunk_most, chunk_weight, length)
    if sinks != 0:
        sink = spread(number(sinks + 4 * head))
        both = larger(most, sink)
        kept = exponential(minus(most, both))
        for index in range(0, length, 16):
            store(total + 4 * index, times(load(total + 4 * index), kept))
        weight = plus(times(weight, kept), exponential(minus(sink, both)))
    return weight


@inlined
def _clear(sums: int, length: int) -> None:
    for index in range(0, length, 16):
        store(sums + 4 * index, zeros())
