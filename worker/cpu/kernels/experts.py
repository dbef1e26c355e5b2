"""Experts: which ones a row goes to, the tiles of their rows, the sum of what they give."""

from __future__ import annotations

import math

from numba import njit

from tplaunch.coordinator.model.experts import GATINGS
from tplaunch.worker.cpu.kernels.building import LANES
from tplaunch.worker.cpu.kernels.edges import load_part, store_part
from tplaunch.worker.cpu.kernels.functions import exponential, logistic
from tplaunch.worker.cpu.kernels.spans import own_share
from tplaunch.worker.cpu.kernels.vectors import (
    divided,
    larger,
    minus,
    multiply_add,
    number,
    plus,
    put,
    put_word,
    spread,
    times,
    total,
    unsigned,
    word,
    zeros,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
VECTOR = 4 * LANES  # bytes
SOFTMAX, SIGMOID = GATINGS.index("softmax"), GATINGS.index("sigmoid")
SMALLEST_SUM = 6.103515625e-5  # that weights are divided by: float16's smallest normal number
NOTHING, TAKEN = -math.inf, math.nan


def route(
    router: int,
    router_stride: int,
    bias: int,
    routes: int,
    routes_stride: int,
    count: int,
    used: int,
    gating: int,
    by_logits: int,
    normalises: int,
    scale: float,
    num_groups: int,
    used_groups: int,
    scratch: int,
    scratch_bytes: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """routes = the numbers of each row's experts, the best first, then their weights.

    A thread's scratch has room for two numbers of each expert, and one of each group. Threads share rows.
    """
    rows = unsigned(num_rows)
    keys = scratch + thread * scratch_bytes
    gates, scores = keys + 4 * count, keys + 8 * count
    first, stop = own_share(rows, thread, num_threads)
    for row in range(first, stop):
        logits, out = router + row * router_stride, routes + row * routes_stride
        _gate(logits, gates, count, gating)
        for at in range(0, 4 * count, VECTOR):
            left = count - at // 4
            key = load_part(logits + at if by_logits else gates + at, left)
            if bias != 0:
                key = plus(key, load_part(bias + at, left))
            store_part(keys + at, larger(key, spread(NOTHING)), left)  # also where it is not a number
        if num_groups > 1:
            _rule_groups_out(keys, scores, count // num_groups, num_groups, used_groups)
        sums = 0.0
        for choice in range(used):
            expert = _take_best(keys, count)
            weight = number(gates + 4 * expert)
            sums += weight
            put(out + 4 * choice, expert)
            put(out + 4 * (used + choice), weight)
        divisor = max(sums, SMALLEST_SUM) if normalises else 1.0
        for at in range(4 * used, 8 * used, 4):
            put(out + at, number(out + at) / divisor * scale)


@inlined
def _gate(logits: int, gates: int, count: int, gating: int) -> None:
    """Makes probabilities of a row's logits: those of a softmax of the chosen have no divisor yet."""
    if gating == SIGMOID:
        for at in range(0, 4 * count, VECTOR):
            left = count - at // 4
            store_part(gates + at, logistic(load_part(logits + at, left)), left)
        return
    highest = number(logits)
    for expert in range(1, count):
        highest = max(highest, number(logits + 4 * expert))
    sums = zeros()
    for at in range(0, 4 * count, VECTOR):
        left = count - at // 4
        store_part(gates + at, exponential(minus(load_part(logits + at, left), spread(highest))), left)
        sums = plus(sums, load_part(gates + at, left))
    if gating == SOFTMAX:
        divisor = spread(total(sums))
        for at in range(0, 4 * count, VECTOR):
            left = count - at // 4
            store_part(gates + at, divided(load_part(gates + at, left), divisor), left)


@inlined
def _take_best(keys: int, count: int) -> int:
    """Returns the first of the largest keys that are left, and takes it away."""
    best, highest = -1, 0.0
    for each in range(count):
        key = number(keys + 4 * each)
        if not math.isnan(key) and (best < 0 or key > highest):
            best, highest = each, key
    put(keys + 4 * best, TAKEN)
    return best


@inlined
def _rule_groups_out(keys: int, scores: int, length: int, num_groups: int, used_groups: int) -> None:
    """Leaves nothing of the keys outside of the groups whose two best ones are the best."""
    for group in range(num_groups):
        first, second = NOTHING, NOTHING
        for each in range(length * group, length * (group + 1)):
            key = number(keys + 4 * each)
            if key > first:
                first, second = key, first
            elif key > second:
                second = key
        score = first + second if length > 1 else first
        put(scores + 4 * group, NOTHING if math.isnan(score) else score)
    for _ in range(used_groups):
        _take_best(scores, num_groups)
    for group in range(num_groups):
        if not math.isnan(number(scores + 4 * group)):
            for each in range(length * group, length * (group + 1)):
                put(keys + 4 * each, NOTHING)


def tiles(
    routes: int,
    routes_stride: int,
    used: int,
    first: int,
    held: int,
    pairs: int,
    places: int,
    num_places: int,
    scratch: int,
    scratch_bytes: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """Writes the tiles that worker/ops/experts.py has ExpertTiles make, of `num_places`.

    A thread's scratch has room for two words of each held expert. Threads share experts.
    """
    counts = scratch + thread * scratch_bytes
    starts, rows, stride = counts + 4 * held, unsigned(num_rows), 4 * (pairs + 4)
    own, stop = own_share(held, thread, num_threads)
    for expert in range(held):
        put_word(counts + 4 * expert, 0)
    for row in range(rows):
        for choice in range(used):
            expert = int(number(routes + row * routes_stride + 4 * choice)) - first
            if 0 <= expert < held:
                put_word(counts + 4 * expert, word(counts + 4 * expert) + 1)
    before = 0
    for expert in range(held):
        put_word(starts + 4 * expert, before // pairs + expert)
        before += word(counts + 4 * expert)
    for expert in range(own, stop):
        last = unsigned(starts + 4 * expert + 4) if expert + 1 < held else num_places
        left = word(counts + 4 * expert)
        for place in range(unsigned(starts + 4 * expert), last):
            put_word(places + place * stride, expert)
            put_word(places + place * stride + 4, min(left, pairs))
            left -= min(left, pairs)
        put_word(counts + 4 * expert, 0)  # from here on of pairs that have a place
    for row in range(rows):
        for choice in range(used):
            expert = int(number(routes + row * routes_stride + 4 * choice)) - first
            if own <= expert < stop:
                placed = word(counts + 4 * expert)
                place = places + (unsigned(starts + 4 * expert) + placed // pairs) * stride
                for at in range(placed % pairs, pairs):  # the last pair also fills what is left of its tile
                    put_word(place + 8 + 4 * at, row * used + choice)
                put_word(counts + 4 * expert, placed + 1)


def add_up(
    routes: int,
    routes_stride: int,
    outputs: int,
    outputs_stride: int,
    output: int,
    output_stride: int,
    used: int,
    first: int,
    held: int,
    weighs: int,
    scale: float,
    accumulates: int,
    columns: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """output = the held experts' outputs of a row, from its first choice on. Threads share columns."""
    vectors = (columns + LANES - 1) // LANES
    begin, stop = own_share(vectors, thread, num_threads)
    for row in range(unsigned(num_rows)):
        choices, out = routes + row * routes_stride, output + row * output_stride
        for at in range(VECTOR * begin, VECTOR * stop, VECTOR):
            left, sums = columns - at // 4, zeros()
            for choice in range(used):
                expert = int(number(choices + 4 * choice)) - first
                if 0 <= expert < held:
                    found = load_part(outputs + (row * used + choice) * outputs_stride + at, left)
                    if weighs:
                        found = times(spread(number(choices + 4 * (used + choice))), found)
                    sums = plus(sums, found)
            sums = times(sums, spread(scale))
            if accumulates:
                sums = plus(load_part(out + at, left), sums)
            store_part(out + at, sums, left)


def row_gate(
    source: int,
    source_stride: int,
    weight: int,
    width: int,
    values: int,
    values_stride: int,
    columns: int,
    num_rows: int,
    thread: int,
    num_threads: int,
) -> None:
    """values *= the logistic function of source x weight, of every row. Threads share rows."""
    rows = unsigned(num_rows)
    first, stop = own_share(rows, thread, num_threads)
    for row in range(first, stop):
        sums = zeros()
        for at in range(0, 4 * width, VECTOR):
            left = width - at // 4
            sums = multiply_add(
                load_part(source + row * source_stride + at, left), load_part(weight + at, left), sums
            )
        gate = logistic(spread(total(sums)))
        for at in range(0, 4 * columns, VECTOR):
            place, left = values + row * values_stride + at, columns - at // 4
            store_part(place, times(load_part(place, left), gate), left)
