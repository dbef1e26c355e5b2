"""Words of 32 bits that threads share: they are read and written whole, and what is written before is seen.

A thread sleeps on a word until another one says that it has changed: futex(2).
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tplaunch.worker.cpu.kernels.building import (
    ADDRESS,
    PLACE,
    WORD,
    function,
    pointer_to,
)
from tplaunch.worker.cpu.options import PAUSE

ORDER = "seq_cst"  # one order of all such accesses, which all threads see


@function(types.int64, PLACE)
def load_shared(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Loads a word, as an unsigned integer."""
    return builder.zext(builder.load_atomic(pointer_to(builder, address, WORD), ORDER, 4), ADDRESS)


@function(types.void, PLACE, types.int64)
def store_shared(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Stores a word."""
    builder.store_atomic(builder.trunc(value, WORD), pointer_to(builder, address, WORD), ORDER, 4)


@function(types.int64, PLACE, types.int64)
def add_shared(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> ir.Value:
    """Adds to a word, and returns what was there before."""
    before = builder.atomic_rmw("add", pointer_to(builder, address, WORD), builder.trunc(value, WORD), ORDER)
    return builder.zext(before, ADDRESS)


@function(types.void)
def pause(builder: ir.IRBuilder) -> None:
    """Waits for a few cycles, and tells the processor that this thread has nothing to do (compiling.py)."""
    kind = ir.FunctionType(ir.VoidType(), [])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, PAUSE), [])


@function(types.int64, PLACE, types.int64, PLACE, types.int64, types.int64, PLACE)
def system_call(
    builder: ir.IRBuilder,
    function: ir.Value,
    number: ir.Value,
    address: ir.Value,
    operation: ir.Value,
    value: ir.Value,
    timeout: ir.Value,
) -> ir.Value:
    """Calls the C library's syscall(2), at an address, for a word at another one."""
    kind = ir.FunctionType(ADDRESS, [ADDRESS], var_arg=True)
    return builder.call(pointer_to(builder, function, kind), [number, address, operation, value, timeout])
