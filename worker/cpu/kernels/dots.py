"""Integers as vectors of 16 lanes, four bytes each, whose products with four bytes more are added up exactly.

Rows become columns here: a lane is a row's, and a vector holds the same four columns of all its rows.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tplaunch.worker.cpu.dot_instructions import HELD_SIGNED, SIGNED_DOTS, SIGNED_ZERO, SMALL_DOTS
from tplaunch.worker.cpu.kernels.building import (
    FLOATS,
    LANES,
    NUMBER,
    PLACE,
    SHORT,
    WORD,
    WORDS,
    filled,
    function,
    pointer_to,
    spread_value,
)

Lanes = list[tuple[int, int]]  # the row and the column of each lane, four bytes
Held = tuple[ir.Value, Lanes]


@function(WORDS, PLACE)
def load_words(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads 16 words."""
    return builder.load(pointer_to(builder, address, WORDS.of_llvm), align=4)


@function(types.void, PLACE, WORDS)
def store_words(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value) -> None:
    """Stores 16 words."""
    builder.store(vector, pointer_to(builder, address, WORDS.of_llvm), align=4)


@function(WORDS, NUMBER)
def spread_word(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Returns one word in all lanes."""
    return spread_value(builder, value)


@function(WORDS, WORDS, NUMBER)
def words_times(builder: ir.IRBuilder, vector: ir.Value, value: ir.Value) -> ir.Value:
    """Multiplies all words by one."""
    return builder.mul(vector, spread_value(builder, value))


@function(WORDS, WORDS, NUMBER, NUMBER)
def bits_of_bytes(builder: ir.IRBuilder, vector: ir.Value, shift: ir.Value, mask: ir.Value) -> ir.Value:
    """Returns the bits of each byte from `shift` on that a mask of four bytes has."""
    shifted = builder.lshr(vector, spread_value(builder, shift))
    return builder.and_(shifted, spread_value(builder, mask))


@function(WORDS, WORDS, WORDS, NUMBER)
def joined_words(builder: ir.IRBuilder, one: ir.Value, other: ir.Value, shift: ir.Value) -> ir.Value:
    """Returns the bits of one vector, and those of another one that are shifted to the left."""
    return builder.or_(one, builder.shl(other, spread_value(builder, shift)))


@function(FLOATS, WORDS)
def from_words(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Returns words with signs as float32."""
    return builder.sitofp(vector, FLOATS.of_llvm)


def _dots(builder: ir.IRBuilder, name: str, *values: ir.Value) -> ir.Value:
    kind = ir.FunctionType(WORDS.of_llvm, [value.type for value in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


@function(WORDS, WORDS, WORDS, NUMBER)
def small_dots(builder: ir.IRBuilder, sums: ir.Value, weights: ir.Value, four: ir.Value) -> ir.Value:
    """Adds to each lane the products of its four weights from 0 to 127 with four activations."""
    return _dots(builder, SMALL_DOTS, sums, weights, four)


@function(WORDS, WORDS, WORDS, NUMBER)
def signed_dots(builder: ir.IRBuilder, sums: ir.Value, weights: ir.Value, four: ir.Value) -> ir.Value:
    """Does the same with weights that `held_signed` returned."""
    return _dots(builder, SIGNED_DOTS, sums, weights, four)


@function(WORDS, WORDS)
def held_signed(builder: ir.IRBuilder, weights: ir.Value) -> ir.Value:
    """Returns signed bytes as dots take them."""
    return _dots(builder, HELD_SIGNED, weights)


@function(NUMBER)
def signed_zero(builder: ir.IRBuilder) -> ir.Value:
    """Returns what `held_signed` makes of zero."""
    kind = ir.FunctionType(WORD, [])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, SIGNED_ZERO), [])


@function(types.void, PLACE, PLACE, PLACE, PLACE)
def transpose_8_of_16(
    builder: ir.IRBuilder, rows: ir.Value, stride: ir.Value, last: ir.Value, output: ir.Value
) -> None:
    """Writes eight vectors: words of 16 rows. The last row stands for those behind it."""
    _store_all(builder, output, _transposed(builder, _loaded(builder, rows, stride, last, 16, 8)))


@function(types.void, PLACE, PLACE, PLACE, PLACE)
def transpose_4_of_16(
    builder: ir.IRBuilder, rows: ir.Value, stride: ir.Value, last: ir.Value, output: ir.Value
) -> None:
    """Writes four vectors of four words of each row."""
    _store_all(builder, output, _transposed(builder, _loaded(builder, rows, stride, last, 16, 4)))


@function(types.void, PLACE, PLACE)
def copy_32_bytes(builder: ir.IRBuilder, source: ir.Value, output: ir.Value) -> None:
    """Copies 32 bytes."""
    held = ir.VectorType(WORD, 8)
    found = builder.load(pointer_to(builder, source, held), align=4)
    builder.store(found, pointer_to(builder, output, held), align=4)


@function(types.void, PLACE, PLACE)
def transpose_8_of_8(builder: ir.IRBuilder, rows: ir.Value, totals: ir.Value) -> None:
    """Puts in the place of eight rows of eight words each their columns, two to a vector.

    A vector of totals of their bytes has those of each row's first 16, and then those of the others.
    """
    stride, last = ir.Constant(rows.type, 32), ir.Constant(rows.type, 7)
    vectors = _transposed(builder, _loaded(builder, rows, stride, last, 8, 8))
    _store_all(builder, rows, vectors)
    halves = []
    for one, other in (vectors[:2], vectors[2:]):
        both = builder.add(_pair_totals(builder, one), _pair_totals(builder, other))
        word = _word_totals(builder, both)
        lower, upper = (_picked(builder, word, word, list(range(at, at + 8))) for at in (0, 8))
        halves.append(builder.add(lower, upper))
    _store_all(builder, totals, [_picked(builder, halves[0], halves[1], list(range(LANES)))])


def _pair_totals(builder: ir.IRBuilder, words: ir.Value) -> ir.Value:
    """Returns the totals of the two signed bytes of each half of a word, 16 bits each."""
    shorts = ir.VectorType(SHORT, 2 * LANES)
    halves, eights = builder.bitcast(words, shorts), filled(shorts, 8)
    lower = builder.ashr(builder.shl(halves, eights), eights)
    return builder.add(lower, builder.ashr(halves, eights))


def _word_totals(builder: ir.IRBuilder, halves: ir.Value) -> ir.Value:
    """Returns the totals of two signed halves of each word."""
    words, half = builder.bitcast(halves, WORDS.of_llvm), filled(WORDS.of_llvm, 16)
    return builder.add(builder.ashr(builder.shl(words, half), half), builder.ashr(words, half))


def _picked(builder: ir.IRBuilder, one: ir.Value, other: ir.Value, lanes: list[int]) -> ir.Value:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(WORD, len(lanes)), lanes))


def _loaded(
    builder: ir.IRBuilder, start: ir.Value, stride: ir.Value, last: ir.Value, rows: int, columns: int
) -> list[Held]:
    """Loads so many words of so many rows."""
    found = []
    for row in range(rows):
        number = ir.Constant(last.type, row)
        number = builder.select(builder.icmp_signed("<", number, last), number, last)
        address = builder.add(start, builder.mul(number, stride))
        vector = builder.load(pointer_to(builder, address, ir.VectorType(WORD, columns)), align=1)
        found.append((vector, [(row, column) for column in range(columns)]))
    return found


def _transposed(builder: ir.IRBuilder, vectors: list[Held]) -> list[ir.Value]:
    """Returns vectors of 16 lanes, in the order of columns, and of rows in each of them."""
    blocks = [vectors]  # each has some columns of all rows
    while len(blocks[0]) > 1:
        blocks = [halved for block in blocks for halved in _joined(builder, block)]
    return [vector for block in blocks for vector, _ in block]


def _joined(builder: ir.IRBuilder, block: list[Held]) -> list[list[Held]]:
    """Joins two vectors at a time, and halves the columns where they would have more than 16 lanes."""
    lanes = block[0][1]
    columns = sorted({column for _, column in lanes})
    is_last, is_too_long = len(block) == 2, 2 * len(lanes) > LANES
    pieces = [columns[: len(columns) // 2], columns[len(columns) // 2 :]] if is_too_long else [columns]
    joined = []
    for piece in pieces:
        found = []
        for (one, first), (other, second) in zip(block[::2], block[1::2], strict=True):
            wanted = [lane for lane in first + second if lane[1] in piece]
            if is_last or is_too_long:
                wanted.sort(key=lambda lane: (lane[1], lane[0]))
            places = [(first + second).index(lane) for lane in wanted]
            found.append((_picked(builder, one, other, places), wanted))
        joined.append(found)
    return joined


def _store_all(builder: ir.IRBuilder, output: ir.Value, vectors: list[ir.Value]) -> None:
    for index, vector in enumerate(vectors):
        address = builder.add(output, ir.Constant(output.type, 4 * LANES * index))
        builder.store(vector, pointer_to(builder, address, WORDS.of_llvm), align=4)
