"""Groups pairs of rows and experts by expert."""

from __future__ import annotations

from numba import njit

from tplaunch.worker.cpu.kernels.vectors import number, put_word, unsigned
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
NO_EXPERT = -1


@inlined
def expert_of(routes: int, routes_stride: int, pair: int, used: int, first: int, count: int) -> int:
    """Returns a pair's expert among those held, or NO_EXPERT."""
    route = number(routes + pair // used * routes_stride + 4 * (pair % used)) - first
    return int(route) if 0 <= route < count else NO_EXPERT


@inlined
def group_pairs(
    routes: int,
    routes_stride: int,
    num_pairs: int,
    used: int,
    first: int,
    count: int,
    by_pair: int,
    places: int,
) -> None:
    """Writes where each expert's pairs begin, the pairs by expert, and the numbers of their inputs."""
    pairs = places + 4 * (count + 2)
    inputs = pairs + 4 * num_pairs
    for place in range(count + 2):
        put_word(places + 4 * place, 0)
    for pair in range(num_pairs):
        expert = expert_of(routes, routes_stride, pair, used, first, count)
        if expert != NO_EXPERT:
            at = places + 4 * (expert + 2)
            put_word(at, unsigned(at) + 1)
    for expert in range(count):  # from here on the place behind an expert's is where its next pair goes
        at = places + 4 * (expert + 2)
        put_word(at, unsigned(at) + unsigned(at - 4))
    for pair in range(num_pairs):
        expert = expert_of(routes, routes_stride, pair, used, first, count)
        if expert != NO_EXPERT:
            at = places + 4 * (expert + 1)
            place = unsigned(at)
            put_word(at, place + 1)
            put_word(pairs + 4 * place, pair)
            put_word(inputs + 4 * place, pair if by_pair != 0 else pair // used)
