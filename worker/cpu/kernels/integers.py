"""Integers of 16 rows of a matrix, for types that have an integer form: a vector is four columns.

A function of a type takes the addresses of its planes, the first row's tile, the tiles of a row, the number
of the last row that there is, which stands for those behind it, how many parts of 32 columns begin there,
eight at most, where it writes eight vectors for each part, and scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from tplaunch.worker.cpu.integer_layout import PART_BYTES, PARTS, VECTOR
from tplaunch.worker.cpu.kernels.dots import (
    bits_of_bytes,
    held_signed,
    joined_words,
    load_words,
    store_words,
    transpose_4_of_16,
    transpose_8_of_16,
    words_times,
)
from tplaunch.worker.cpu.kernels.vectors import put_word, word
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
EACH_BYTE = 0x01010101
TO_BYTES = 0x00204081  # times four bits: each in a byte of its own


@inlined
def q8_0(
    p0: int, p1: int, p2: int, p3: int, tile: int, length: int, last: int, count: int, out: int, raw: int
) -> None:
    """Signed bytes."""
    for part in range(count):
        at = out + PART_BYTES * part
        transpose_8_of_16(p0 + 32 * (tile + part), 32 * length, last, at)
        for index in range(8):
            store_words(at + VECTOR * index, held_signed(load_words(at + VECTOR * index)))


@inlined
def nibbles(
    p0: int, p1: int, p2: int, p3: int, tile: int, length: int, last: int, count: int, out: int, raw: int
) -> None:
    """Four bits: lower ones of the first 16 columns, upper ones of the others."""
    for part in range(count):
        at = out + PART_BYTES * part
        transpose_4_of_16(p0 + 16 * (tile + part), 16 * length, last, at)
        for index in range(4):
            both = load_words(at + VECTOR * index)
            store_words(at + VECTOR * index, bits_of_bytes(both, 0, 15 * EACH_BYTE))
            store_words(at + VECTOR * (index + 4), bits_of_bytes(both, 4, 15 * EACH_BYTE))


@inlined
def fives(
    p0: int, p1: int, p2: int, p3: int, tile: int, length: int, last: int, count: int, out: int, raw: int
) -> None:
    """The same, and a word of a part's fifth bits."""
    nibbles(p0, p1, p2, p3, tile, length, last, count, out, raw)
    if count == PARTS:
        transpose_8_of_16(p1 + 4 * tile, 4 * length, last, raw)
    else:  # there may be no memory behind them
        rows = raw + PART_BYTES
        for row in range(last + 1):
            for part in range(count):
                put_word(rows + 32 * row + 4 * part, word(p1 + 4 * (tile + row * length + part)))
        transpose_8_of_16(rows, 32, last, raw)
    for part in range(count):
        fifths = load_words(raw + VECTOR * part)
        for index in range(8):
            at = out + PART_BYTES * part + VECTOR * index
            four = bits_of_bytes(fifths, 4 * index, 15)
            apart = bits_of_bytes(words_times(four, TO_BYTES), 0, EACH_BYTE)
            store_words(at, joined_words(load_words(at), apart, 4))


def k_quants(low: tuple[int, int], high: tuple[int, int]) -> Any:
    """Makes the function of a K-quant, of which some bits lie apart.

    low, high: how many bits, and the bytes after which the next ones of the same bytes follow, as
    worker/formats/k_quants.py has them; 0 bits are none.
    """
    (low_bits, low_run), (high_bits, high_run) = low, high
    low_vectors, high_vectors = low_bits, high_bits  # 32 bytes of each bit are of 256 columns
    low_mask, high_mask = ((1 << low_bits) - 1) * EACH_BYTE, ((1 << high_bits) - 1) * EACH_BYTE

    @inlined
    def write(
        p0: int, p1: int, p2: int, p3: int, tile: int, length: int, last: int, count: int, out: int, raw: int
    ) -> None:
        highs = raw + PART_BYTES * low_vectors
        for each in range(low_vectors):
            at, stride = p0 + 32 * (low_vectors * tile + each), 32 * low_vectors * length
            transpose_8_of_16(at, stride, last, raw + PART_BYTES * each)
        for each in range(high_vectors):
            at, stride = p1 + 32 * (high_vectors * tile + each), 32 * high_vectors * length
            transpose_8_of_16(at, stride, last, highs + PART_BYTES * each)
        for part in range(PARTS):
            lower, shift = _place(part, low_bits, low_run)
            upper, upper_shift = _place(part, high_bits, high_run)
            for index in range(8):
                found = bits_of_bytes(load_words(raw + lower + VECTOR * index), shift, low_mask)
                if high_bits > 0:
                    others = load_words(highs + upper + VECTOR * index)
                    found = joined_words(found, bits_of_bytes(others, upper_shift, high_mask), low_bits)
                store_words(out + PART_BYTES * part + VECTOR * index, found)

    return write


@inlined
def _place(part: int, bits: int, run: int) -> tuple[int, int]:
    """Returns where a part's bits are: bytes of vectors, and the lowest bit of each byte."""
    if bits == 0:
        return 0, 0
    parts = run // 32
    same = 8 // bits * parts  # parts whose bits are in the same bytes
    within = part % same
    return PART_BYTES * (part // same * parts + within % parts), bits * (within // parts)


WRITE: dict[str, Callable[..., None]] = {
    "Q8_0": q8_0,
    "Q4_0": nibbles,
    "Q4_1": nibbles,
    "Q5_0": fives,
    "Q5_1": fives,
    "Q2_K": k_quants((2, 32), (0, 0)),
    "Q3_K": k_quants((2, 32), (1, 32)),
    "Q4_K": k_quants((4, 32), (0, 0)),
    "Q5_K": k_quants((4, 32), (1, 32)),
    "Q6_K": k_quants((4, 64), (2, 32)),
}
