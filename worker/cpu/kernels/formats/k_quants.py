"""Blocks of 256 weights with small scales for every 16 or 32, in units of a common one: Q2_K to Q6_K."""

from __future__ import annotations

from typing import Any

from tplaunch.worker.cpu.kernels.formats.base import Weights, both_scaled, inlined
from tplaunch.worker.cpu.kernels.quants import (
    load_32_bytes,
    negative,
    odd_negated,
    scaled_nibbles,
    spread_half,
    spread_halves,
)
from tplaunch.worker.cpu.kernels.vectors import (
    from_signed,
    from_unsigned,
    joined,
    left,
    load_bytes,
    masked,
    number,
    plus,
    right,
    spread,
    store,
    times,
)

HELD_BYTES = 20  # of a block's scales: 16 bytes, and the units


@inlined
def _at(scales: int, index: int) -> Any:
    return spread(number(scales + 4 * index))


@inlined
def _q2_k_scales(_0: int, held: int, _2: int, _3: int, tile: int, count: int, scales: int) -> None:
    """A byte has the scale and the minimum of 16 weights: here 16 of each, and minima are negative."""
    held = held + HELD_BYTES * tile
    small = load_bytes(held)
    store(scales, times(from_unsigned(masked(small, 15)), spread_half(held + 16)))
    store(scales + 64, negative(times(from_unsigned(right(small, 4)), spread_half(held + 18))))


@inlined
def q2_k(quants: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Two bits with a scale and a minimum for 16."""
    at = quants + 64 * tile + 32 * (part // 4)
    integers = masked(right(load_32_bytes(at), 2 * (part % 4)), 3)
    first, second = both_scaled(integers, 0, _at(scales, 2 * part), _at(scales, 2 * part + 1))
    return plus(first, _at(scales, 16 + 2 * part)), plus(second, _at(scales, 17 + 2 * part))


@inlined
def _write_signed(held: int, scales: int) -> None:
    """Writes 16 scales, of signed bytes and their unit."""
    store(scales, times(from_signed(load_bytes(held)), spread(number(held + 16))))


@inlined
def _signed_scales(_0: int, _1: int, held: int, _3: int, tile: int, count: int, scales: int) -> None:
    _write_signed(held + HELD_BYTES * tile, scales)


@inlined
def q3_k(quants: int, highs: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Three bits less 4, of which the third ones lie apart, with signed scales."""
    low = load_32_bytes(quants + 64 * tile + 32 * (part // 4))
    high = left(masked(right(load_32_bytes(highs + 32 * tile), part), 1), 2)
    integers = joined(masked(right(low, 2 * (part % 4)), 3), high)
    return both_scaled(integers, 4, _at(scales, 2 * part), _at(scales, 2 * part + 1))


@inlined
def _write_minima(held: int, scales: int) -> None:
    """Writes scales and negative minima by turns, as small ones lie, and their units."""
    products = times(from_unsigned(load_bytes(held)), spread_halves(held + 16))
    store(scales, odd_negated(products))


@inlined
def _scales_second(_0: int, held: int, _2: int, _3: int, tile: int, count: int, scales: int) -> None:
    _write_minima(held + HELD_BYTES * tile, scales)


@inlined
def _scales_third(_0: int, _1: int, held: int, _3: int, tile: int, count: int, scales: int) -> None:
    _write_minima(held + HELD_BYTES * tile, scales)


@inlined
def q4_k(quants: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Four bits with a scale and a minimum for 32."""
    at, shift = quants + 128 * tile + 32 * (part // 2), 4 * (part % 2)
    scale, minimum = _at(scales, 2 * part), _at(scales, 2 * part + 1)
    first = scaled_nibbles(load_bytes(at), shift, 0.0, scale, minimum)
    return first, scaled_nibbles(load_bytes(at + 16), shift, 0.0, scale, minimum)


@inlined
def q5_k(quants: int, highs: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Five bits, of which the fifth ones lie apart, with a scale and a minimum for 32."""
    low = load_32_bytes(quants + 128 * tile + 32 * (part // 2))
    high = left(masked(right(load_32_bytes(highs + 32 * tile), part), 1), 4)
    integers = joined(masked(right(low, 4 * (part % 2)), 15), high)
    scale, minimum = _at(scales, 2 * part), _at(scales, 2 * part + 1)
    first, second = both_scaled(integers, 0, scale, scale)
    return plus(first, minimum), plus(second, minimum)


@inlined
def q6_k(quants: int, highs: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Six bits less 32, of which the upper two lie apart, with signed scales."""
    low = load_32_bytes(quants + 128 * tile + 64 * (part // 4) + 32 * (part % 2))
    high = right(load_32_bytes(highs + 64 * tile + 32 * (part // 4)), 2 * (part % 4))
    integers = joined(masked(right(low, 4 * (part // 2 % 2)), 15), left(masked(high, 3), 4))
    return both_scaled(integers, 32, _at(scales, 2 * part), _at(scales, 2 * part + 1))


WEIGHTS = {
    "Q2_K": Weights(q2_k, _q2_k_scales),
    "Q3_K": Weights(q3_k, _signed_scales),
    "Q4_K": Weights(q4_k, _scales_second),
    "Q5_K": Weights(q5_k, _scales_third),
    "Q6_K": Weights(q6_k, _signed_scales),
}
