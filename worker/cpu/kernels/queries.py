"""The queries that attention computes together: what a thread's memory holds of them, from start to end."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from tplaunch.worker.buffers.cuts import CUT
from tplaunch.worker.cpu.attention_room import LINE, RANGE_BYTES, STATE_BYTES, VECTORS, vector_bytes
from tplaunch.worker.cpu.kernels.edges import load_part
from tplaunch.worker.cpu.kernels.parts import Step, position_of, slot_of
from tplaunch.worker.cpu.kernels.scores import EMPTY_MAXIMUM, softmax
from tplaunch.worker.cpu.kernels.spans import copy
from tplaunch.worker.cpu.kernels.vectors import (
    double_word,
    load,
    number,
    put,
    put_double_word,
    spread,
    store,
    times,
    zeros,
)
from tplaunch.worker.cpu.kernels.weighted import fold
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
bytes_of = inlined(vector_bytes)
FOREVER = 1 << 62  # more keys than there are


class Heads(NamedTuple):
    """A rank's heads, and what is made of scores."""

    num_heads: int
    key_length: int
    value_length: int
    scale: float
    window: int
    chunked: int
    softcap: float
    slopes: int  # their address, or 0


class Queries(NamedTuple):
    """The queries that are computed together: rows times heads, and the part of keys of each."""

    first_row: int
    first_head: int
    num_heads: int
    num_queries: int
    part: int
    part_length: int
    cut: int


class Room(NamedTuple):
    """A thread's memory, and the bytes from query to query."""

    queries: int
    query_stride: int
    scores: int
    cut_sums: int
    sums: int
    sums_stride: int
    states: int
    ranges: int
    tile: int
    tile_stride: int


@inlined
def room_of(start: int, heads: Heads) -> Room:
    query, value = bytes_of(heads.key_length), bytes_of(heads.value_length)
    scores = start + VECTORS * query
    cut_sums = scores + VECTORS * 4 * CUT
    sums = cut_sums + VECTORS * value
    states = sums + VECTORS * value
    ranges = states + VECTORS * STATE_BYTES
    tile = ranges + VECTORS * RANGE_BYTES
    return Room(start, query, scores, cut_sums, sums, value, states, ranges, tile, max(query, value))


@inlined
def begin(own: Queries, heads: Heads, step: Step, room: Room, query: int) -> bool:
    """Scales the queries, and notes which keys of the part each sees; tells if there are any."""
    has_keys = False
    for index in range(own.num_queries):
        row, head = own.first_row + index // own.num_heads, own.first_head + index % own.num_heads
        position, first = position_of(step, row), 0
        if heads.window > 0:
            first = max(0, position + 1 - heads.window)
            if heads.chunked != 0:
                first = position - position % heads.window
        lower = max(first, own.part * own.part_length)
        upper = max(lower, min(position + 1, (own.part + 1) * own.part_length))
        put_double_word(room.ranges + RANGE_BYTES * index, lower)
        put_double_word(room.ranges + RANGE_BYTES * index + 8, upper)
        store(room.states + STATE_BYTES * index, spread(EMPTY_MAXIMUM))
        store(room.states + STATE_BYTES * index + LINE, zeros())
        has_keys = has_keys or lower < upper
        source, target = query + 4 * heads.key_length * (row * heads.num_heads + head), room.queries
        target += index * room.query_stride
        for at in range(0, heads.key_length, 16):
            elements = load_part(source + 4 * at, heads.key_length - at)
            store(target + 4 * at, times(elements, spread(heads.scale)))
        for at in range(0, room.sums_stride, LINE):
            store(room.sums + index * room.sums_stride + at, zeros())
    return has_keys


@inlined
def seen(room: Room, query: int, first: int, stop: int) -> Any:
    """Returns the keys that a query sees of these: the first one, and the one behind the last."""
    at = room.ranges + RANGE_BYTES * query
    return max(first, double_word(at)), min(stop, double_word(at + 8))


@inlined
def all_seen(room: Room, count: int) -> Any:
    """Returns the first key that one of the queries sees, and the one behind the last."""
    first, stop = FOREVER, 0
    for query in range(count):
        lower, upper = seen(room, query, 0, FOREVER)
        if lower < upper:
            first, stop = min(first, lower), max(stop, upper)
    return first, stop


@inlined
def weights_of(own: Queries, heads: Heads, step: Step, room: Room, start: int, first: int, stop: int) -> None:
    """Makes weights of the scores of a cut that starts there, where a query sees some of its keys."""
    for query in range(own.num_queries):
        lower, upper = seen(room, query, first, stop)
        if lower >= upper:
            continue
        row, head = own.first_row + query // own.num_heads, own.first_head + query % own.num_heads
        slope = 0.0
        if heads.slopes != 0:
            slope = number(heads.slopes + 4 * head)
        scores, distance = room.scores + 4 * CUT * query, start - position_of(step, row)
        most, weight = softmax(scores, lower - start, upper - start, heads.softcap, slope, distance)
        state = room.states + STATE_BYTES * query
        store(state + 2 * LINE, most)
        store(state + 3 * LINE, weight)
        for at in range(0, room.sums_stride, LINE):
            store(room.cut_sums + query * room.sums_stride + at, zeros())


@inlined
def fold_cut(room: Room, count: int, first: int, stop: int) -> None:
    """Folds the sums of a cut, of the keys from `first` up to `stop`, to those before it."""
    for query in range(count):
        lower, upper = seen(room, query, first, stop)
        if lower < upper:
            state, offset = room.states + STATE_BYTES * query, query * room.sums_stride
            cut_most, cut_weight = load(state + 2 * LINE), load(state + 3 * LINE)
            sums, added = room.sums + offset, room.cut_sums + offset
            length = room.sums_stride // 4
            most, weight = fold(sums, load(state), load(state + LINE), added, cut_most, cut_weight, length)
            store(state, most)
            store(state + LINE, weight)


@inlined
def write_part(own: Queries, heads: Heads, step: Step, room: Room, sums: int, scales: int) -> None:
    """Writes what the part's slot of each row holds; without keys that is no sums."""
    for query in range(own.num_queries):
        row, head = own.first_row + query // own.num_heads, own.first_head + query % own.num_heads
        if own.part * own.part_length > position_of(step, row):
            continue
        place = (slot_of(step, row) + own.part) * heads.num_heads + head
        state = room.states + STATE_BYTES * query
        put(scales + 8 * place, number(state))
        put(scales + 8 * place + 4, number(state + LINE))
        if number(state + LINE) != 0:
            target = sums + 4 * place * heads.value_length
            copy(room.sums + query * room.sums_stride, target, heads.value_length)
