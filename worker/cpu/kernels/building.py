"""How kernels' functions are built of LLVM's instructions: types of vectors, and what many of them need."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

LANES = 16
BYTE, SHORT, WORD, ADDRESS = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HALF, FLOAT = ir.HalfType(), ir.FloatType()


class Vector(types.Type):  # type: ignore[misc]
    """The type of a vector in Numba; its elements are of an LLVM type."""

    def __init__(self, name: str, element: ir.Type, lanes: int = LANES) -> None:
        self.of_llvm = ir.VectorType(element, lanes)
        super().__init__(name=name)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    """Tells Numba that a vector is held as LLVM holds it."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.of_llvm)


FLOATS, WORDS, BYTES = Vector("floats", FLOAT), Vector("words", WORD), Vector("bytes", BYTE)
BYTES_32 = Vector("32 bytes", BYTE, 32)
ANY_BYTES = object()  # either kind, which a call's argument decides
NUMBER, FRACTION, PLACE = types.int32, types.float32, types.int64  # single ones, and an address

Build = Callable[..., Any]  # takes a builder and the values of the arguments; None where nothing comes of it


def function(result: Any, *parameters: Any) -> Callable[[Build], Any]:
    """Makes of what builds LLVM's instructions a function that kernels call with these types."""

    def decorate(build: Build) -> Any:
        def typed(_: Any, *found: Any) -> tuple[Any, Any]:
            held = next(
                (kind for kind, named in zip(found, parameters, strict=True) if named is ANY_BYTES), None
            )
            kinds: list[Any] = [held if named is ANY_BYTES else named for named in (result, *parameters)]

            def generate(context: Any, builder: ir.IRBuilder, ___: Any, arguments: Any) -> ir.Value:
                value = build(builder, *arguments)
                return context.get_dummy_value() if value is None else value

            return kinds[0](*kinds[1:]), generate

        typed.__name__, typed.__doc__ = build.__name__, build.__doc__
        # Numba matches calls with it; where it has a context, this has a builder.
        vars(typed)["__signature__"] = inspect.signature(build)
        return intrinsic(typed)

    return decorate


def pointer_to(builder: ir.IRBuilder, address: ir.Value, held: ir.Type) -> ir.Value:
    """Returns a pointer to what is held at an address."""
    return builder.inttoptr(address, held.as_pointer())


def filled(held: ir.VectorType, value: int) -> ir.Constant:
    """Returns a vector with one integer in all lanes."""
    return ir.Constant(held, [value] * held.count)


def lanes_of(builder: ir.IRBuilder, vector: ir.Value, lanes: list[int]) -> ir.Value:
    """Returns the lanes of a vector by their numbers."""
    mask = ir.Constant(ir.VectorType(WORD, len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def spread_value(builder: ir.IRBuilder, value: ir.Value, lanes: int = LANES) -> ir.Value:
    """Returns a vector with one value in all lanes."""
    held = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(held, ir.Undefined), value, ir.Constant(WORD, 0))
    return lanes_of(builder, first, [0] * lanes)


def lanes_below(builder: ir.IRBuilder, bound: ir.Value) -> ir.Value:
    """Tells of each lane if its number is below a bound, an address's size."""
    numbers = ir.Constant(WORDS.of_llvm, list(range(LANES)))
    return builder.icmp_signed("<", numbers, spread_value(builder, builder.trunc(bound, WORD)))


def call_llvm(builder: ir.IRBuilder, name: str, *arguments: ir.Value) -> ir.Value:
    """Calls one of LLVM's own functions that takes and gives values of one type."""
    held = arguments[0].type
    suffix = f"v{LANES}f32" if isinstance(held, ir.VectorType) else "f32"
    kind = ir.FunctionType(held, [held] * len(arguments))
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{suffix}"), arguments
    )
