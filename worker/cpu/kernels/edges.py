"""Vectors at the edges of rows, which hold fewer elements than they have lanes: nothing beyond is touched."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils

from tplaunch.worker.cpu.kernels.building import (
    ADDRESS,
    FLOAT,
    FLOATS,
    LANES,
    PLACE,
    WORD,
    function,
    lanes_below,
    pointer_to,
    spread_value,
)
from tplaunch.worker.cpu.kernels.vectors import (
    load,
    store,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
BIT, POINTER = ir.IntType(1), FLOAT.as_pointer()
MASK, PLACES = ir.VectorType(BIT, LANES), ir.VectorType(ADDRESS, LANES)


@inlined
def load_part(address: int, count: int) -> Any:
    """Loads the first `count` of 16 float32, all where it is larger; zeros are in the other lanes."""
    return load(address) if count >= LANES else _load_first(address, count)


@inlined
def store_part(address: int, vector: Any, count: int) -> None:
    """Stores the first `count` of 16 float32, all where it is larger."""
    if count >= LANES:
        store(address, vector)
    else:
        _store_first(address, vector, count)


@function(FLOATS, PLACE, PLACE, PLACE)
def load_apart(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, count: ir.Value) -> ir.Value:
    """Loads `count` float32 that lie `stride` bytes apart; zeros are in the other lanes."""
    steps = builder.mul(spread_value(builder, stride), ir.Constant(PLACES, list(range(LANES))))
    places = builder.add(spread_value(builder, address), steps)
    pointers = builder.inttoptr(places, ir.VectorType(POINTER, LANES))
    kind = ir.FunctionType(FLOATS.of_llvm, [pointers.type, WORD, MASK, FLOATS.of_llvm])
    gather = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.masked.gather.v{LANES}f32.v{LANES}p0"
    )
    return builder.call(gather, [pointers, ir.Constant(WORD, 4), lanes_below(builder, count), _no_floats()])


@function(FLOATS, PLACE, PLACE)
def _load_first(builder: ir.IRBuilder, address: ir.Value, count: ir.Value) -> ir.Value:
    place = pointer_to(builder, address, FLOATS.of_llvm)
    kind = ir.FunctionType(FLOATS.of_llvm, [place.type, WORD, MASK, FLOATS.of_llvm])
    masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
    return builder.call(masked, [place, ir.Constant(WORD, 4), lanes_below(builder, count), _no_floats()])


@function(types.void, PLACE, FLOATS, PLACE)
def _store_first(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value, count: ir.Value) -> None:
    place = pointer_to(builder, address, FLOATS.of_llvm)
    kind = ir.FunctionType(ir.VoidType(), [FLOATS.of_llvm, place.type, WORD, MASK])
    masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
    builder.call(masked, [vector, place, ir.Constant(WORD, 4), lanes_below(builder, count)])


def _no_floats() -> ir.Constant:
    return ir.Constant(FLOATS.of_llvm, [0.0] * LANES)
