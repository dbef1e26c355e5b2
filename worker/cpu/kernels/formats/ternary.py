"""Blocks of 256 weights that are -1, 0 or 1 times a scale: TQ1_0 and TQ2_0."""

from __future__ import annotations

from typing import Any

from tplaunch.worker.cpu.kernels.formats.base import Weights, both_scaled, inlined, scaled
from tplaunch.worker.cpu.kernels.quants import bytes_times, first_digits, load_32_bytes, of_words
from tplaunch.worker.cpu.kernels.vectors import (
    load_bytes,
    masked,
    number,
    right,
    spread,
    unsigned,
)

# The powers of three of a digit's place, in all bytes of a word.
ONES, THREES, NINES, TWENTY_SEVENS, EIGHTY_ONES = 0x01010101, 0x03030303, 0x09090909, 0x1B1B1B1B, 0x51515151


@inlined
def _power(place: int) -> int:
    """Returns 3 to the power of a place below 5, in all bytes of a word."""
    if place == 0:
        power = ONES
    elif place == 1:
        power = THREES
    elif place == 2:
        power = NINES
    elif place == 3:
        power = TWENTY_SEVENS
    else:
        power = EIGHTY_ONES
    return power


@inlined
def _digit(data: Any, place: int) -> Any:
    """Returns a digit of 16 fractions: what precedes it is beyond the byte once it is multiplied."""
    power = _power(place)
    return first_digits(bytes_times(data, of_words(power, power, power, power)))


@inlined
def tq1_0(words: int, _1: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Digits of base 3: 32 bytes hold 160 weights, 16 bytes 80, and four bytes the last 16."""
    words = words + 56 * tile
    scale, digits = spread(number(words)), words + 4
    if part < 5:
        first, second = _digit(load_bytes(digits), part), _digit(load_bytes(digits + 16), part)
    elif part < 7:
        data = load_bytes(digits + 32)
        first, second = _digit(data, 2 * part - 10), _digit(data, 2 * part - 9)
    else:
        last = unsigned(digits + 48)
        first = _digit(load_bytes(digits + 32), 4)
        powers = of_words(ONES, THREES, NINES, TWENTY_SEVENS)
        second = first_digits(bytes_times(of_words(last, last, last, last), powers))
    return scaled(first, 1, scale), scaled(second, 1, scale)


@inlined
def tq2_0(quants: int, held: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Two bits each."""
    scale, at = spread(number(held + 4 * tile)), quants + 64 * tile + 32 * (part // 4)
    return both_scaled(masked(right(load_32_bytes(at), 2 * (part % 4)), 3), 1, scale, scale)


WEIGHTS = {"TQ1_0": Weights(tq1_0), "TQ2_0": Weights(tq2_0)}
