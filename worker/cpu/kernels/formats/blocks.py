"""Blocks of 32 weights with a scale, and some with a minimum: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0."""

from __future__ import annotations

from typing import Any

from tplaunch.worker.cpu.kernels.formats.base import Weights, inlined, scaled, widen_pairs, widen_scales
from tplaunch.worker.cpu.kernels.quants import no_minimum, scaled_nibbles, where
from tplaunch.worker.cpu.kernels.vectors import (
    from_signed,
    joined,
    load_bytes,
    masked,
    number,
    plus,
    right,
    spread,
    times,
    unsigned,
)


@inlined
def _scales_second(_0: int, held: int, _2: int, _3: int, tile: int, count: int, scales: int) -> None:
    widen_scales(held + 2 * tile, count, scales)


@inlined
def _scales_third(_0: int, _1: int, held: int, _3: int, tile: int, count: int, scales: int) -> None:
    widen_scales(held + 2 * tile, count, scales)


@inlined
def _pairs_second(_0: int, held: int, _2: int, _3: int, tile: int, count: int, scales: int) -> None:
    widen_pairs(held + 4 * tile, count, scales)


@inlined
def _pairs_third(_0: int, _1: int, held: int, _3: int, tile: int, count: int, scales: int) -> None:
    widen_pairs(held + 4 * tile, count, scales)


@inlined
def q8_0(quants: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Signed bytes with a scale."""
    scale, at = spread(number(scales + 4 * part)), quants + 32 * (tile + part)
    first, second = from_signed(load_bytes(at)), from_signed(load_bytes(at + 16))
    return times(first, scale), times(second, scale)


@inlined
def q4_0(quants: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Four bits less 8, with a scale."""
    scale, both = spread(number(scales + 4 * part)), load_bytes(quants + 16 * (tile + part))
    first = scaled_nibbles(both, 0, 8.0, scale, no_minimum())
    return first, scaled_nibbles(both, 4, 8.0, scale, no_minimum())


@inlined
def q4_1(quants: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Four bits with a scale and a minimum."""
    scale, minimum = spread(number(scales + 8 * part)), spread(number(scales + 8 * part + 4))
    both = load_bytes(quants + 16 * (tile + part))
    return scaled_nibbles(both, 0, 0.0, scale, minimum), scaled_nibbles(both, 4, 0.0, scale, minimum)


@inlined
def _fives(quants: int, words: int, tile: int) -> Any:
    """Returns quants of five bits, of which the fifth ones lie apart."""
    both, fifth = load_bytes(quants + 16 * tile), unsigned(words + 4 * tile)
    first = joined(masked(both, 15), where(fifth, 16))
    return first, joined(right(both, 4), where(fifth >> 16, 16))


@inlined
def q5_0(quants: int, words: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Five bits less 16, with a scale."""
    scale = spread(number(scales + 4 * part))
    first, second = _fives(quants, words, tile + part)
    return scaled(first, 16, scale), scaled(second, 16, scale)


@inlined
def q5_1(quants: int, words: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Five bits with a scale and a minimum."""
    scale, minimum = spread(number(scales + 8 * part)), spread(number(scales + 8 * part + 4))
    first, second = _fives(quants, words, tile + part)
    return plus(scaled(first, 0, scale), minimum), plus(scaled(second, 0, scale), minimum)


WEIGHTS = {
    "Q8_0": Weights(q8_0, _scales_second),
    "Q4_0": Weights(q4_0, _scales_second),
    "Q4_1": Weights(q4_1, _pairs_second),
    "Q5_0": Weights(q5_0, _scales_third),
    "Q5_1": Weights(q5_1, _pairs_third),
}
