"""Lanes of vectors by their numbers: the first ones in memory, those within bounds, those of several vectors.

Rows that don't fill their last vector need them, pairs of neighbours, and sums of many vectors.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tplaunch.worker.cpu.kernels.building import (
    BYTES,
    FLOAT,
    FLOATS,
    HALF,
    LANES,
    PLACE,
    SHORT,
    WORD,
    WORDS,
    function,
    lanes_below,
    pointer_to,
)

BITS = ir.VectorType(ir.IntType(1), LANES)
SHORTS = ir.VectorType(SHORT, LANES)


def _shuffled(builder: ir.IRBuilder, one: ir.Value, other: ir.Value, lanes: list[int]) -> ir.Value:
    """Returns lanes of two vectors; the second one's numbers follow those of the first."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(WORD, len(lanes)), lanes))


@function(FLOATS, PLACE, PLACE)
def load_first_halves(builder: ir.IRBuilder, address: ir.Value, count: ir.Value) -> ir.Value:
    """Loads the first `count` of 16 float16, widened, and no memory of the others, which are zero."""
    kind = ir.FunctionType(SHORTS, [SHORTS.as_pointer(), WORD, BITS, SHORTS])
    masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}i16.p0")
    place, none = pointer_to(builder, address, SHORTS), ir.Constant(SHORTS, [0] * LANES)
    shorts = builder.call(masked, [place, ir.Constant(WORD, 2), lanes_below(builder, count), none])
    return builder.fpext(builder.bitcast(shorts, ir.VectorType(HALF, LANES)), FLOATS.of_llvm)


@function(types.void, PLACE, FLOATS)
def store_halves(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value) -> None:
    """Stores 16 float32 as the nearest float16, ties to even ones; what is beyond them gets infinite."""
    held = ir.VectorType(HALF, LANES)
    builder.store(builder.fptrunc(vector, held), pointer_to(builder, address, held), align=2)


@function(types.void, PLACE, FLOATS, PLACE)
def store_first_halves(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value, count: ir.Value) -> None:
    """Stores the first `count` of 16 float32 so, and leaves the memory of the others."""
    shorts = builder.bitcast(builder.fptrunc(vector, ir.VectorType(HALF, LANES)), SHORTS)
    kind = ir.FunctionType(ir.VoidType(), [SHORTS, SHORTS.as_pointer(), WORD, BITS])
    masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}i16.p0")
    place = pointer_to(builder, address, SHORTS)
    builder.call(masked, [shorts, place, ir.Constant(WORD, 2), lanes_below(builder, count)])


@function(types.void, PLACE, FLOATS)
def store_signed(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value) -> None:
    """Stores whole numbers from -128 to 127 as bytes."""
    held = BYTES.of_llvm
    words = builder.fptosi(vector, WORDS.of_llvm)
    builder.store(builder.trunc(words, held), pointer_to(builder, address, held), align=1)


@function(types.void, PLACE, PLACE, PLACE, PLACE, FLOATS)
def store_quarters(
    builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value, d: ir.Value, vector: ir.Value
) -> None:
    """Stores four lanes to each of four places."""
    quarter = ir.VectorType(FLOAT, 4)
    for index, address in enumerate((a, b, c, d)):
        lanes = _shuffled(builder, vector, vector, list(range(4 * index, 4 * index + 4)))
        builder.store(lanes, pointer_to(builder, address, quarter), align=4)


@function(FLOATS, FLOATS, PLACE, PLACE, FLOATS)
def within(
    builder: ir.IRBuilder, vector: ir.Value, first: ir.Value, stop: ir.Value, others: ir.Value
) -> ir.Value:
    """Returns the lanes from `first` up to `stop`, and the other vector's outside."""
    is_before, is_within = lanes_below(builder, first), lanes_below(builder, stop)
    return builder.select(builder.and_(is_within, builder.not_(is_before)), vector, others)


@function(FLOATS)
def numbers(_: ir.IRBuilder) -> ir.Value:
    """Returns the number of each lane."""
    return ir.Constant(FLOATS.of_llvm, [float(lane) for lane in range(LANES)])


@function(FLOATS, FLOATS, FLOATS)
def evens(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns every second lane of both, from the first on."""
    return _shuffled(builder, one, other, list(range(0, 2 * LANES, 2)))


@function(FLOATS, FLOATS, FLOATS)
def odds(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns every second lane of both, from the second on."""
    return _shuffled(builder, one, other, list(range(1, 2 * LANES, 2)))


@function(FLOATS, FLOATS, FLOATS)
def first_pairs(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns pairs of a lane of each vector: those of the first half."""
    half = range(LANES // 2)
    return _shuffled(builder, one, other, [lane + source for lane in half for source in (0, LANES)])


@function(FLOATS, FLOATS, FLOATS)
def last_pairs(builder: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Returns pairs of a lane of each vector: those of the second half."""
    half = range(LANES // 2, LANES)
    return _shuffled(builder, one, other, [lane + source for lane in half for source in (0, LANES)])


@function(FLOATS, *[FLOATS] * LANES)
def totals(
    builder: ir.IRBuilder,
    a: ir.Value,
    b: ir.Value,
    c: ir.Value,
    d: ir.Value,
    e: ir.Value,
    f: ir.Value,
    g: ir.Value,
    h: ir.Value,
    i: ir.Value,
    j: ir.Value,
    k: ir.Value,
    m: ir.Value,
    n: ir.Value,
    o: ir.Value,
    p: ir.Value,
    q: ir.Value,
) -> ir.Value:
    """Returns the total of each of 16 vectors, a lane each, in the order that `total` adds up lanes."""
    vectors = (a, b, c, d, e, f, g, h, i, j, k, m, n, o, p, q)
    # Four vectors with every fourth one's sums of four lanes; what comes then stays within four lanes.
    a, b, c, d = (_of_four(builder, vectors[first::4]) for first in range(4))
    fours = range(0, LANES, 4)
    halves = [four + source + lane for four in fours for source in (0, LANES) for lane in (0, 1)]
    evens = [four + source + lane for four in fours for source in (0, LANES) for lane in (0, 2)]
    one, other = _folded(builder, a, b, halves, 2), _folded(builder, c, d, halves, 2)
    return _folded(builder, one, other, evens, 1)


def _of_four(builder: ir.IRBuilder, vectors: tuple[ir.Value, ...]) -> ir.Value:
    """Adds up the lanes of four vectors until four of each are left, which come one after another."""
    halves = [source + lane for source in (0, LANES) for lane in range(8)]
    quarters = [source + half + lane for source in (0, LANES) for half in (0, 8) for lane in range(4)]
    a, b, c, d = vectors
    one, other = _folded(builder, a, b, halves, 8), _folded(builder, c, d, halves, 8)
    return _folded(builder, one, other, quarters, 4)


def _folded(
    builder: ir.IRBuilder, one: ir.Value, other: ir.Value, lanes: list[int], distance: int
) -> ir.Value:
    """Adds to these lanes of two vectors those at a distance."""
    upper = [lane + distance for lane in lanes]
    return builder.fadd(_shuffled(builder, one, other, lanes), _shuffled(builder, one, other, upper))
