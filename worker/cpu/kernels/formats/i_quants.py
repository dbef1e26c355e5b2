"""Blocks of 256 weights whose quants are places in a codebook: IQ1_S to IQ3_S.

A block begins with its float32 scale, but for IQ1_M. Entries of codebooks are loaded one by one.
"""

from __future__ import annotations

from typing import Any

from tplaunch.worker.cpu.kernels.formats.base import Weights, inlined
from tplaunch.worker.cpu.kernels.quants import (
    eighths,
    half_of,
    negated,
    of_double_words,
    of_words,
    short,
    two_bits_of,
)
from tplaunch.worker.cpu.kernels.vectors import (
    byte,
    double_word,
    from_signed,
    from_unsigned,
    minus,
    number,
    plus,
    spread,
    times,
    unsigned,
)


@inlined
def _quarters(unit: float, small: int, step: float) -> Any:
    """Returns a scale of the unit times half to 15.5 steps."""
    return times(times(spread(unit), spread(0.5 + small)), spread(step))


@inlined
def _nibble(at: int, index: int) -> Any:
    """Returns four bits of many, the lower ones of a byte first."""
    return byte(at + index // 2) >> 4 * (index % 2) & 15


@inlined
def _even_signs(sevens: int) -> int:
    """Returns 32 signs of four times seven: the number of those that are set among eight is even."""
    signs = sevens & 0x7F | sevens << 1 & 0x7F00 | sevens << 2 & 0x7F0000 | sevens << 3 & 0x7F000000
    odd = signs ^ signs >> 4
    odd = odd ^ odd >> 2
    odd = odd ^ odd >> 1
    return signs | (odd & 0x01010101) << 7


@inlined
def _eights(book: int, one: int, other: int, signs: int, scale: Any) -> Any:
    """Returns two entries of eight weights, with signs and a scale."""
    entries = of_double_words(double_word(book + 8 * one), double_word(book + 8 * other))
    return times(from_signed(negated(entries, signs)), scale)


@inlined
def _fours(book: int, at: int, ninths: int, signs: int, scale: Any) -> Any:
    """Returns four entries of four weights; `at` is the address of their places' bytes."""
    entries = of_words(
        unsigned(book + 4 * (byte(at) | (ninths & 1) << 8)),
        unsigned(book + 4 * (byte(at + 1) | (ninths >> 1 & 1) << 8)),
        unsigned(book + 4 * (byte(at + 2) | (ninths >> 2 & 1) << 8)),
        unsigned(book + 4 * (byte(at + 3) | (ninths >> 3 & 1) << 8)),
    )
    return times(from_signed(negated(entries, signs)), scale)


@inlined
def iq2_xxs(book: int, words: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Two words hold four places of a byte, and four times seven signs and a scale."""
    words = words + 68 * tile
    at = words + 4 + 8 * part
    rest = unsigned(at + 4)
    scale, signs = _quarters(number(words), rest >> 28, 0.25), _even_signs(rest)
    first = _eights(book, byte(at), byte(at + 1), signs, scale)
    return first, _eights(book, byte(at + 2), byte(at + 3), signs >> 16, scale)


@inlined
def iq2_xs(book: int, words: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Eight weights have a place of nine bits and seven signs in 16 bits, and 16 weights a scale."""
    words = words + 76 * tile
    at, unit = words + 4 + 8 * part, number(words)
    a, b, c, d = short(at), short(at + 2), short(at + 4), short(at + 6)
    signs = _even_signs(a >> 9 | b >> 9 << 7 | c >> 9 << 14 | d >> 9 << 21)
    small = byte(words + 68 + part)
    first = _eights(book, a & 511, b & 511, signs, _quarters(unit, small & 15, 0.25))
    return first, _eights(book, c & 511, d & 511, signs >> 16, _quarters(unit, small >> 4, 0.25))


@inlined
def iq2_s(book: int, words: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Lower bytes of places, signs, upper bits of places, scales of 16 weights."""
    words = words + 84 * tile
    at, unit, upper, small = (
        words + 4 + 4 * part,
        number(words),
        byte(words + 68 + part),
        byte(words + 76 + part),
    )
    a, b = byte(at) | (upper & 3) << 8, byte(at + 1) | (upper >> 2 & 3) << 8
    c, d = byte(at + 2) | (upper >> 4 & 3) << 8, byte(at + 3) | (upper >> 6) << 8
    signs = unsigned(at + 32)
    first = _eights(book, a, b, signs, _quarters(unit, small & 15, 0.25))
    return first, _eights(book, c, d, signs >> 16, _quarters(unit, small >> 4, 0.25))


@inlined
def iq3_xxs(book: int, words: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Places; of 32 weights a word of signs and scale."""
    words = words + 100 * tile
    at, rest = words + 4 + 8 * part, unsigned(words + 68 + 4 * part)
    scale, signs = _quarters(number(words), rest >> 28, 0.5), _even_signs(rest)
    return _fours(book, at, 0, signs, scale), _fours(book, at + 4, 0, signs >> 16, scale)


@inlined
def iq3_s(book: int, words: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Lower bytes of places, their ninth bits, signs, scales of 32 weights."""
    words = words + 112 * tile
    at, ninths, signs = words + 4 + 8 * part, byte(words + 68 + part), unsigned(words + 76 + 4 * part)
    scale = times(spread(number(words)), spread(float(1 + 2 * _nibble(words + 108, part))))
    return _fours(book, at, ninths, signs, scale), _fours(book, at + 4, ninths >> 4, signs >> 16, scale)


@inlined
def _around(book: int, one: int, other: int, less_one: int, less_other: int, scale: Any) -> Any:
    """Returns two entries of eight weights from -1 to 1, all an eighth more or less, times a scale."""
    codes = short(book + 2 * one) | short(book + 2 * other) << 16
    values = minus(from_unsigned(two_bits_of(codes)), spread(1.0))
    return times(plus(values, eighths(less_one, less_other)), scale)


@inlined
def iq1_s(book: int, words: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Lower bytes of places; of 32 weights 16 bits: upper bits of four places, a scale, more or less."""
    words = words + 52 * tile
    at, rest = words + 4 + 4 * part, short(words + 36 + 2 * part)
    scale = times(spread(number(words)), spread(float(2 * (rest >> 12 & 7) + 1)))
    a, b = byte(at) | (rest & 7) << 8, byte(at + 1) | (rest >> 3 & 7) << 8
    c, d = byte(at + 2) | (rest >> 6 & 7) << 8, byte(at + 3) | (rest >> 9 & 7) << 8
    less = rest >> 15
    return _around(book, a, b, less, less, scale), _around(book, c, d, less, less, scale)


@inlined
def iq1_m(book: int, words: int, _2: int, _3: int, scales: int, tile: int, part: int) -> Any:
    """Lower bytes of places; of 8 weights upper bits and more or less; scales of 16 in 3 bits of 16.

    The highest four of these are pieces of the float16 scale.
    """
    words = words + 56 * tile
    at, upper, ends = words + 4 * part, short(words + 32 + 2 * part), words + 48
    unit = spread(
        half_of(
            short(ends) >> 12
            | short(ends + 2) >> 12 << 4
            | short(ends + 4) >> 12 << 8
            | short(ends + 6) >> 12 << 12
        )
    )
    small = short(ends + 2 * (part // 2)) >> 6 * (part % 2)
    first, second = float(2 * (small & 7) + 1), float(2 * (small >> 3 & 7) + 1)
    a, b = byte(at) | (upper & 7) << 8, byte(at + 1) | (upper >> 4 & 7) << 8
    c, d = byte(at + 2) | (upper >> 8 & 7) << 8, byte(at + 3) | (upper >> 12 & 7) << 8
    return (
        _around(book, a, b, upper >> 3 & 1, upper >> 7 & 1, times(unit, spread(first))),
        _around(book, c, d, upper >> 11 & 1, upper >> 15 & 1, times(unit, spread(second))),
    )


WEIGHTS = {
    "IQ1_S": Weights(iq1_s),
    "IQ1_M": Weights(iq1_m),
    "IQ2_XXS": Weights(iq2_xxs),
    "IQ2_XS": Weights(iq2_xs),
    "IQ2_S": Weights(iq2_s),
    "IQ3_XXS": Weights(iq3_xxs),
    "IQ3_S": Weights(iq3_s),
}
