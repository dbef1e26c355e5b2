"""Goes over the eight parts of 32 columns whose scales are prepared at once: sums, and widened weights."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.cpu.kernels.formats import SCALES_BYTES
from tplaunch.worker.cpu.kernels.vectors import load, multiply_add, store
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)


def over_parts(pair: Any, is_one_tile: bool) -> tuple[Any, Any, Any]:
    """Makes what adds products to the vectors of four rows, to that of one, and what widens a row.

    Parts of one tile are written out, so that each is compiled for its own number; parts that are tiles are
    alike.
    """
    part_of_four, part_of_one, part_widened = _of_a_part(pair)
    if is_one_tile:
        return _written_out(part_of_four, part_of_one, part_widened)

    @inlined
    def of_four(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        own: int,
        tile: int,
        length: int,
        count: int,
        x: int,
        a: Any,
        b: Any,
        c: Any,
        d: Any,
    ) -> Any:
        for part in range(count):
            a, b, c, d = part_of_four(p0, p1, p2, p3, own, tile, length, part, x, a, b, c, d)
        return a, b, c, d

    @inlined
    def of_one(p0: int, p1: int, p2: int, p3: int, own: int, tile: int, count: int, x: int, a: Any) -> Any:
        for part in range(count):
            a = part_of_one(p0, p1, p2, p3, own, tile, part, x, a)
        return a

    @inlined
    def widened(p0: int, p1: int, p2: int, p3: int, own: int, tile: int, count: int, out: int) -> None:
        for part in range(count):
            part_widened(p0, p1, p2, p3, own, tile, part, out)

    return of_four, of_one, widened


def _of_a_part(pair: Any) -> tuple[Any, Any, Any]:
    @inlined
    def of_four(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        own: int,
        tile: int,
        length: int,
        part: int,
        x: int,
        a: Any,
        b: Any,
        c: Any,
        d: Any,
    ) -> Any:
        u, v = load(x + 128 * part), load(x + 128 * part + 64)
        first, second = pair(p0, p1, p2, p3, own, tile, part)
        a = multiply_add(v, second, multiply_add(u, first, a))
        first, second = pair(p0, p1, p2, p3, own + SCALES_BYTES, tile + length, part)
        b = multiply_add(v, second, multiply_add(u, first, b))
        first, second = pair(p0, p1, p2, p3, own + 2 * SCALES_BYTES, tile + 2 * length, part)
        c = multiply_add(v, second, multiply_add(u, first, c))
        first, second = pair(p0, p1, p2, p3, own + 3 * SCALES_BYTES, tile + 3 * length, part)
        d = multiply_add(v, second, multiply_add(u, first, d))
        return a, b, c, d

    @inlined
    def of_one(p0: int, p1: int, p2: int, p3: int, own: int, tile: int, part: int, x: int, a: Any) -> Any:
        first, second = pair(p0, p1, p2, p3, own, tile, part)
        a = multiply_add(load(x + 128 * part), first, a)
        return multiply_add(load(x + 128 * part + 64), second, a)

    @inlined
    def widened(p0: int, p1: int, p2: int, p3: int, own: int, tile: int, part: int, out: int) -> None:
        first, second = pair(p0, p1, p2, p3, own, tile, part)
        store(out + 128 * part, first)
        store(out + 128 * part + 64, second)

    return of_four, of_one, widened


def _written_out(part_of_four: Any, part_of_one: Any, part_widened: Any) -> tuple[Any, Any, Any]:
    @inlined
    def of_four(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        own: int,
        tile: int,
        length: int,
        count: int,
        x: int,
        a: Any,
        b: Any,
        c: Any,
        d: Any,
    ) -> Any:
        a, b, c, d = part_of_four(p0, p1, p2, p3, own, tile, length, 0, x, a, b, c, d)
        a, b, c, d = part_of_four(p0, p1, p2, p3, own, tile, length, 1, x, a, b, c, d)
        a, b, c, d = part_of_four(p0, p1, p2, p3, own, tile, length, 2, x, a, b, c, d)
        a, b, c, d = part_of_four(p0, p1, p2, p3, own, tile, length, 3, x, a, b, c, d)
        a, b, c, d = part_of_four(p0, p1, p2, p3, own, tile, length, 4, x, a, b, c, d)
        a, b, c, d = part_of_four(p0, p1, p2, p3, own, tile, length, 5, x, a, b, c, d)
        a, b, c, d = part_of_four(p0, p1, p2, p3, own, tile, length, 6, x, a, b, c, d)
        return part_of_four(p0, p1, p2, p3, own, tile, length, 7, x, a, b, c, d)

    @inlined
    def of_one(p0: int, p1: int, p2: int, p3: int, own: int, tile: int, count: int, x: int, a: Any) -> Any:
        a = part_of_one(p0, p1, p2, p3, own, tile, 0, x, a)
        a = part_of_one(p0, p1, p2, p3, own, tile, 1, x, a)
        a = part_of_one(p0, p1, p2, p3, own, tile, 2, x, a)
        a = part_of_one(p0, p1, p2, p3, own, tile, 3, x, a)
        a = part_of_one(p0, p1, p2, p3, own, tile, 4, x, a)
        a = part_of_one(p0, p1, p2, p3, own, tile, 5, x, a)
        a = part_of_one(p0, p1, p2, p3, own, tile, 6, x, a)
        return part_of_one(p0, p1, p2, p3, own, tile, 7, x, a)

    @inlined
    def widened(p0: int, p1: int, p2: int, p3: int, own: int, tile: int, count: int, out: int) -> None:
        part_widened(p0, p1, p2, p3, own, tile, 0, out)
        part_widened(p0, p1, p2, p3, own, tile, 1, out)
        part_widened(p0, p1, p2, p3, own, tile, 2, out)
        part_widened(p0, p1, p2, p3, own, tile, 3, out)
        part_widened(p0, p1, p2, p3, own, tile, 4, out)
        part_widened(p0, p1, p2, p3, own, tile, 5, out)
        part_widened(p0, p1, p2, p3, own, tile, 6, out)
        part_widened(p0, p1, p2, p3, own, tile, 7, out)

    return of_four, of_one, widened
