"""Vectors of quants, and the few numbers that they come with, for the functions of weight types."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tplaunch.worker.cpu.instructions import LOOKED_UP, NUM_VECTORS, SCALED_NIBBLES
from tplaunch.worker.cpu.kernels.building import (
    ADDRESS,
    ANY_BYTES,
    BYTE,
    BYTES,
    BYTES_32,
    FLOAT,
    FLOATS,
    FRACTION,
    HALF,
    LANES,
    NUMBER,
    PLACE,
    SHORT,
    WORD,
    WORDS,
    filled,
    function,
    lanes_of,
    pointer_to,
    spread_value,
)

HALVES = ir.VectorType(HALF, LANES)
SHORTS = ir.VectorType(SHORT, LANES)
BITS = ir.VectorType(ir.IntType(1), LANES)


@function(NUMBER, PLACE)
def short(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads an unsigned integer of 16 bits."""
    return builder.zext(builder.load(pointer_to(builder, address, SHORT), align=1), WORD)


@function(FLOATS, PLACE)
def spread_half(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads a float16 into all lanes, widened."""
    halves = spread_value(builder, builder.load(pointer_to(builder, address, HALF), align=2))
    return builder.fpext(halves, FLOATS.of_llvm)


@function(FLOATS, PLACE)
def spread_halves(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads two float16 into all lanes by turns, widened."""
    words = spread_value(builder, builder.load(pointer_to(builder, address, WORD), align=4), LANES // 2)
    return builder.fpext(builder.bitcast(words, HALVES), FLOATS.of_llvm)


@function(FRACTION, PLACE)
def half_of(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Returns what 16 bits are as a float16, widened."""
    return builder.fpext(builder.bitcast(builder.trunc(bits, SHORT), HALF), FLOAT)


@function(FRACTION, PLACE)
def float_of(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Returns what 32 bits are as a float32."""
    return builder.bitcast(builder.trunc(bits, WORD), FLOAT)


@function(FLOATS, FLOATS, PLACE)
def lane(builder: ir.IRBuilder, vector: ir.Value, index: ir.Value) -> ir.Value:
    """Returns one lane of a vector in all."""
    return spread_value(builder, builder.extract_element(vector, builder.trunc(index, WORD)))


def _chosen(builder: ir.IRBuilder, bits: ir.Value, one: ir.Value, other: ir.Value) -> ir.Value:
    """Takes the lanes of the lowest 16 bits that are set from one, and the others from the other."""
    is_set = builder.bitcast(builder.trunc(bits, SHORT), BITS)
    return builder.select(is_set, one, other)


@function(BYTES, PLACE, NUMBER)
def where(builder: ir.IRBuilder, bits: ir.Value, value: ir.Value) -> ir.Value:
    """Returns bytes of a value in the lanes of the lowest 16 bits that are set, and zeros in others."""
    spread = spread_value(builder, builder.trunc(value, BYTE))
    return _chosen(builder, bits, spread, filled(BYTES.of_llvm, 0))


@function(BYTES, BYTES, PLACE)
def negated(builder: ir.IRBuilder, vector: ir.Value, bits: ir.Value) -> ir.Value:
    """Changes the signs of bytes in the lanes of the lowest 16 bits that are set."""
    return _chosen(builder, bits, builder.neg(vector), vector)


@function(FLOATS, PLACE, PLACE)
def eighths(builder: ir.IRBuilder, is_less: ir.Value, are_others_less: ir.Value) -> ir.Value:
    """Returns in eight lanes, and in the other eight, -1/8 where a bit is set, and else 1/8."""
    choices = []
    for bit in (is_less, are_others_less):
        is_set = builder.trunc(bit, ir.IntType(1))
        choices.append(builder.select(is_set, ir.Constant(FLOAT, -0.125), ir.Constant(FLOAT, 0.125)))
    pair = ir.Constant(ir.VectorType(FLOAT, 2), ir.Undefined)
    for index, choice in enumerate(choices):
        pair = builder.insert_element(pair, choice, ir.Constant(WORD, index))
    return lanes_of(builder, pair, [0] * 8 + [1] * 8)


@function(BYTES, PLACE, PLACE, PLACE, PLACE)
def of_words(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value, d: ir.Value) -> ir.Value:
    """Returns the bytes of the lower 32 bits of four integers."""
    held = ir.Constant(ir.VectorType(WORD, 4), ir.Undefined)
    for index, value in enumerate((a, b, c, d)):
        held = builder.insert_element(held, builder.trunc(value, WORD), ir.Constant(WORD, index))
    return builder.bitcast(held, BYTES.of_llvm)


@function(BYTES, PLACE, PLACE)
def of_double_words(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns the bytes of two integers."""
    held = ir.Constant(ir.VectorType(ADDRESS, 2), ir.Undefined)
    for index, value in enumerate((one, other)):
        held = builder.insert_element(held, value, ir.Constant(WORD, index))
    return builder.bitcast(held, BYTES.of_llvm)


@function(BYTES, BYTES, BYTES)
def lower_halves(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns the first eight bytes of both."""
    return builder.shuffle_vector(one, other, ir.Constant(WORDS.of_llvm, [*range(8), *range(16, 24)]))


@function(BYTES, BYTES, BYTES)
def upper_halves(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns the last eight bytes of both."""
    return builder.shuffle_vector(one, other, ir.Constant(WORDS.of_llvm, [*range(8, 16), *range(24, 32)]))


@function(BYTES_32, PLACE)
def load_32_bytes(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads 32 bytes."""
    return builder.load(pointer_to(builder, address, BYTES_32.of_llvm), align=1)


@function(BYTES, BYTES_32)
def first_half(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Returns the first 16 of 32 bytes."""
    return lanes_of(builder, vector, list(range(LANES)))


@function(BYTES, BYTES_32)
def second_half(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Returns the last 16 of 32 bytes."""
    return lanes_of(builder, vector, list(range(LANES, 2 * LANES)))


@function(BYTES, BYTES, BYTES)
def bytes_times(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Multiplies bytes, and keeps the lower eight bits."""
    return builder.mul(one, other)


@function(BYTES, BYTES)
def first_digits(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Returns the integer parts of three times what unsigned bytes are of 256."""
    tripled = builder.mul(builder.zext(vector, SHORTS), filled(SHORTS, 3))
    return builder.trunc(builder.lshr(tripled, filled(SHORTS, 8)), BYTES.of_llvm)


@function(BYTES, PLACE)
def two_bits_of(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Returns the lower 32 bits of an integer, two to a lane, the lowest first."""
    spread = spread_value(builder, builder.trunc(value, WORD))
    shifted = builder.lshr(spread, ir.Constant(WORDS.of_llvm, list(range(0, 2 * LANES, 2))))
    return builder.trunc(builder.and_(shifted, filled(WORDS.of_llvm, 3)), BYTES.of_llvm)


@function(BYTES, BYTES, BYTES)
def looked_up(builder: ir.IRBuilder, table: ir.Value, indexes: ir.Value) -> ir.Value:
    """Returns the bytes of a table by indexes below 16."""
    kind = ir.FunctionType(BYTES.of_llvm, [BYTES.of_llvm] * 2)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, LOOKED_UP), [table, indexes])


@function(FLOATS, BYTES, NUMBER, FRACTION, FLOATS, FLOATS)
def scaled_nibbles(
    builder: ir.IRBuilder,
    vector: ir.Value,
    shift: ir.Value,
    zero: ir.Value,
    scale: ir.Value,
    minimum: ir.Value,
) -> ir.Value:
    """Returns (the four bits of each byte from `shift` on, less `zero`) * scale + minimum."""
    nibbles = builder.lshr(builder.zext(vector, WORDS.of_llvm), spread_value(builder, shift))
    held = FLOATS.of_llvm
    kind = ir.FunctionType(held, [WORDS.of_llvm, FLOAT, held, held])
    scaling = cgutils.get_or_insert_function(builder.module, kind, SCALED_NIBBLES)
    return builder.call(scaling, [nibbles, zero, scale, minimum])


@function(PLACE)
def num_vectors(builder: ir.IRBuilder) -> ir.Value:
    """Returns how many vectors the processor's registers hold."""
    kind = ir.FunctionType(ADDRESS, [])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, NUM_VECTORS), [])


@function(FLOATS)
def no_minimum(_: ir.IRBuilder) -> ir.Value:
    """Returns negative zeros, which change nothing that they are added to."""
    return ir.Constant(FLOATS.of_llvm, [-0.0] * LANES)


@function(ANY_BYTES, ANY_BYTES, NUMBER)
def bytes_minus(builder: ir.IRBuilder, vector: ir.Value, value: ir.Value) -> ir.Value:
    """Subtracts one integer from all bytes."""
    return builder.sub(vector, spread_value(builder, builder.trunc(value, BYTE), vector.type.count))


@function(types.void, PLACE, PLACE)
def widen_eight_halves(builder: ir.IRBuilder, source: ir.Value, output: ir.Value) -> None:
    """Writes eight float16 as float32."""
    halves = builder.load(pointer_to(builder, source, ir.VectorType(HALF, 8)), align=2)
    held = ir.VectorType(FLOAT, 8)
    builder.store(builder.fpext(halves, held), pointer_to(builder, output, held), align=4)


@function(FLOATS, FLOATS)
def negative(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Changes all signs."""
    return builder.fneg(vector)


@function(FLOATS, FLOATS)
def odd_negated(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Changes the signs of every other lane, from the second on."""
    negative = builder.fneg(vector)
    lanes = [index + LANES * (index % 2) for index in range(LANES)]
    return builder.shuffle_vector(vector, negative, ir.Constant(WORDS.of_llvm, lanes))


@function(types.void, PLACE, FLOATS)
def store_as_bytes(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value) -> None:
    """Stores whole numbers as bytes from -127 to 127; what is not a number is 0."""
    held = FLOATS.of_llvm
    is_number = builder.fcmp_ordered("ord", vector, vector)
    vector = builder.select(is_number, vector, ir.Constant(held, [0.0] * LANES))
    for compared, bound in ((">", 127.0), ("<", -127.0)):
        bounds = ir.Constant(held, [bound] * LANES)
        vector = builder.select(builder.fcmp_ordered(compared, vector, bounds), bounds, vector)
    words = builder.fptosi(vector, WORDS.of_llvm)
    builder.store(builder.trunc(words, BYTES.of_llvm), pointer_to(builder, address, BYTES.of_llvm), align=1)
