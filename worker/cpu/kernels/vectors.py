"""Vectors of 16 lanes, and memory by its address, for kernels: what they compute is stated, lane by lane.

A processor with shorter vectors takes several for one of these, and computes the same bits. Numba's own loops
would leave it to LLVM whether and how sums are cut into lanes.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tplaunch.worker.cpu.kernels.building import (
    ADDRESS,
    ANY_BYTES,
    BYTE,
    BYTES,
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
    call_llvm,
    filled,
    function,
    lanes_of,
    pointer_to,
    spread_value,
)

READ, SECOND, DATA = 0, 2, 1  # of a prefetch: not to be written, into the second cache, no code

# Memory. An address needs to be aligned to an element only.


@function(FLOATS, PLACE)
def load(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads 16 float32."""
    return builder.load(pointer_to(builder, address, FLOATS.of_llvm), align=4)


@function(types.void, PLACE, FLOATS)
def store(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value) -> None:
    """Stores 16 float32."""
    builder.store(vector, pointer_to(builder, address, FLOATS.of_llvm), align=4)


@function(BYTES, PLACE)
def load_bytes(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads 16 bytes."""
    return builder.load(pointer_to(builder, address, BYTES.of_llvm), align=1)


@function(FLOATS, PLACE)
def load_halves(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads 16 float16, widened."""
    halves = builder.load(pointer_to(builder, address, ir.VectorType(HALF, LANES)), align=2)
    return builder.fpext(halves, FLOATS.of_llvm)


@function(FLOATS, PLACE)
def load_bfloats(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads 16 bfloat16, widened: they are the upper halves of float32."""
    shorts = builder.load(pointer_to(builder, address, ir.VectorType(SHORT, LANES)), align=2)
    upper = builder.shl(builder.zext(shorts, WORDS.of_llvm), filled(WORDS.of_llvm, 16))
    return builder.bitcast(upper, FLOATS.of_llvm)


@function(FRACTION, PLACE)
def number(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads a float32."""
    return builder.load(pointer_to(builder, address, FLOAT), align=4)


@function(FRACTION, PLACE)
def half(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads a float16, widened."""
    return builder.fpext(builder.load(pointer_to(builder, address, HALF), align=2), FLOAT)


@function(NUMBER, PLACE)
def byte(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads an unsigned byte."""
    return builder.zext(builder.load(pointer_to(builder, address, BYTE), align=1), WORD)


@function(NUMBER, PLACE)
def signed_byte(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads a signed byte."""
    return builder.sext(builder.load(pointer_to(builder, address, BYTE), align=1), WORD)


@function(NUMBER, PLACE)
def word(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads 32 bits, as a signed integer."""
    return builder.load(pointer_to(builder, address, WORD), align=4)


@function(PLACE, PLACE)
def unsigned(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads 32 bits, as an unsigned integer."""
    return builder.zext(builder.load(pointer_to(builder, address, WORD), align=4), ADDRESS)


@function(types.void, PLACE, FRACTION)
def put(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Stores a float32."""
    builder.store(value, pointer_to(builder, address, FLOAT), align=4)


@function(types.void, PLACE, NUMBER)
def put_word(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Stores 32 bits of an integer."""
    builder.store(value, pointer_to(builder, address, WORD), align=4)


@function(PLACE, PLACE)
def double_word(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads 64 bits."""
    return builder.load(pointer_to(builder, address, ADDRESS), align=8)


@function(types.void, PLACE)
def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Has the processor bring 64 bytes closer that are read soon; they need not be there."""
    pointer = pointer_to(builder, address, BYTE)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, WORD, WORD, WORD])
    asked = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(asked, [pointer, *(ir.Constant(WORD, value) for value in (READ, SECOND, DATA))])


@function(types.void, PLACE, PLACE, types.int64, types.int64)
def call(
    builder: ir.IRBuilder, kernel: ir.Value, arguments: ir.Value, thread: ir.Value, num_threads: ir.Value
) -> None:
    """Calls a compiled kernel by its address."""
    kind = ir.FunctionType(ir.VoidType(), [ADDRESS] * 3)
    builder.call(pointer_to(builder, kernel, kind), [arguments, thread, num_threads])


@function(types.void, PLACE, PLACE)
def put_double_word(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Stores 64 bits."""
    builder.store(value, pointer_to(builder, address, ADDRESS), align=8)


# Vectors.


@function(FLOATS)
def zeros(_: ir.IRBuilder) -> ir.Value:
    """Returns 16 zeros."""
    return ir.Constant(FLOATS.of_llvm, [0.0] * LANES)


@function(FLOATS, FRACTION)
def spread(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Returns one number in all lanes."""
    return spread_value(builder, value)


@function(FLOATS, FLOATS, FLOATS)
def plus(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Adds."""
    return builder.fadd(one, other)


@function(FLOATS, FLOATS, FLOATS)
def minus(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Subtracts."""
    return builder.fsub(one, other)


@function(FLOATS, FLOATS, FLOATS)
def times(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Multiplies."""
    return builder.fmul(one, other)


@function(FLOATS, FLOATS, FLOATS, FLOATS)
def multiply_add(builder: ir.IRBuilder, one: ir.Value, other: ir.Value, addend: ir.Value) -> ir.Value:
    """Returns one * other + addend, rounded once."""
    return call_llvm(builder, "fma", one, other, addend)


@function(FRACTION, FLOATS)
def total(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Adds up all lanes: each half onto the other, until one is left."""
    count = LANES
    while count > 1:
        count //= 2
        lower = lanes_of(builder, vector, list(range(count)))
        vector = builder.fadd(lower, lanes_of(builder, vector, list(range(count, 2 * count))))
    return builder.extract_element(vector, ir.Constant(WORD, 0))


@function(FLOATS, FLOATS, FLOATS)
def divided(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Divides."""
    return builder.fdiv(one, other)


@function(FLOATS, FLOATS)
def square_root(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Takes square roots, correctly rounded."""
    return call_llvm(builder, "sqrt", vector)


@function(FLOATS, FLOATS, FLOATS)
def larger(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns the larger of both, and the second where one is not a number."""
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


@function(FLOATS, FLOATS, FLOATS)
def smaller(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns the smaller of both, and the second where one is not a number."""
    return builder.select(builder.fcmp_ordered("<", one, other), one, other)


@function(FLOATS, FLOATS)
def magnitude(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Returns the numbers without their signs."""
    return call_llvm(builder, "fabs", vector)


@function(FLOATS, FLOATS)
def nearest(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Rounds to integers, ties to even ones."""
    return call_llvm(builder, "rint", vector)


@function(FLOATS, FLOATS)
def two_to_the(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Returns powers of two, of integers from -126 to 127."""
    exponents = builder.add(builder.fptosi(vector, WORDS.of_llvm), filled(WORDS.of_llvm, 127))
    return builder.bitcast(builder.shl(exponents, filled(WORDS.of_llvm, 23)), FLOATS.of_llvm)


@function(FRACTION, FLOATS)
def largest(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Returns the largest lane of numbers."""
    count = LANES
    while count > 1:
        count //= 2
        lower = lanes_of(builder, vector, list(range(count)))
        upper = lanes_of(builder, vector, list(range(count, 2 * count)))
        vector = builder.select(builder.fcmp_ordered(">", lower, upper), lower, upper)
    return builder.extract_element(vector, ir.Constant(WORD, 0))


# Integers of quants.


@function(FLOATS, BYTES)
def from_signed(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Widens signed bytes."""
    return builder.sitofp(builder.sext(vector, WORDS.of_llvm), FLOATS.of_llvm)


@function(FLOATS, BYTES)
def from_unsigned(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Widens unsigned bytes."""
    return builder.sitofp(builder.zext(vector, WORDS.of_llvm), FLOATS.of_llvm)


@function(ANY_BYTES, ANY_BYTES, NUMBER)
def right(builder: ir.IRBuilder, vector: ir.Value, bits: ir.Value) -> ir.Value:
    """Shifts unsigned bytes to the right."""
    return builder.lshr(vector, spread_value(builder, builder.trunc(bits, BYTE), vector.type.count))


@function(ANY_BYTES, ANY_BYTES, NUMBER)
def left(builder: ir.IRBuilder, vector: ir.Value, bits: ir.Value) -> ir.Value:
    """Shifts bytes to the left."""
    return builder.shl(vector, spread_value(builder, builder.trunc(bits, BYTE), vector.type.count))


@function(ANY_BYTES, ANY_BYTES, NUMBER)
def masked(builder: ir.IRBuilder, vector: ir.Value, mask: ir.Value) -> ir.Value:
    """Returns the bits of each byte that the mask has."""
    return builder.and_(vector, spread_value(builder, builder.trunc(mask, BYTE), vector.type.count))


@function(ANY_BYTES, ANY_BYTES, ANY_BYTES)
def joined(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns the bits of both."""
    return builder.or_(one, other)
