"""Kernels promise whole vectors of the addresses that they load from, and the host asserts it."""

from __future__ import annotations

from ctypes import Structure, c_uint32
from itertools import groupby

import pytest

from tests.unit.test_shaders_spirv import push_block
from tplaunch.shaders import alignment, spirv
from tplaunch.shaders.load import kernel_names, load_kernel
from tplaunch.shaders.spirv import Instruction
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.fields import Address, PairAddress, QuadAddress, misaligned
from tplaunch.worker.vulkan.push_constants.kernels import KERNELS

BY_CLASS = sorted(KERNELS, key=lambda name: KERNELS[name].__name__)


def is_volatile(op: Instruction) -> bool:
    return bool(op.operands[alignment.MEMORY_OPERANDS[op.opcode]] & alignment.VOLATILE_BIT)


@pytest.mark.parametrize("name", kernel_names())
def test_each_access_promises_what_its_pointer_steps_by(name: str) -> None:
    instructions = list(spirv.instructions(load_kernel(name)))
    pointees = alignment.Pointees.of(instructions)
    for op in instructions:
        promise = alignment.promised(op)
        if promise is not None and not is_volatile(op):  # of which shaders/volatile.slang says it itself
            pointer = op.operands[2 if op.opcode == spirv.OP_LOAD else 0]
            assert promise == pointees.step(pointer), f"{name}: {op}"


@pytest.mark.parametrize(("name", "most"), [("matvec_q8_0", 16), ("matvec_q4_k_wide", 16), ("activate", 4)])
def test_vectors_are_loaded_by_as_many_bytes_as_they_have(name: str, most: int) -> None:
    assert max(alignment.promised(op) or 0 for op in spirv.instructions(load_kernel(name))) == most


def test_an_access_by_a_pointer_that_steps_otherwise_keeps_its_promise() -> None:
    float_type, vector, pointers, kind, chain, loaded = 1, 2, 3, 4, 5, 6
    module = [
        Instruction(spirv.OP_DECORATE, (pointers, alignment.STRIDE_DECORATION, 4)),
        Instruction(spirv.OP_TYPE_FLOAT, (float_type, 32)),
        Instruction(spirv.OP_TYPE_VECTOR, (vector, float_type, 4)),
        Instruction(spirv.OP_TYPE_POINTER, (pointers, 5349, vector)),
        Instruction(spirv.OP_PTR_ACCESS_CHAIN, (pointers, chain, kind, kind)),
        Instruction(spirv.OP_LOAD, (vector, loaded, chain, alignment.ALIGNED_BIT, 4)),
    ]
    assert list(alignment.aligned(module)) == module


@pytest.mark.parametrize(
    ("structure", "names"), [(key, list(group)) for key, group in groupby(BY_CLASS, KERNELS.__getitem__)]
)
def test_the_host_asserts_what_the_kernels_promise(structure: type[Structure], names: list[str]) -> None:
    promised: dict[str, int] = {}
    for name in names:
        for member, size in pointers_of(load_kernel(name)).items():
            promised[member] = max(promised.get(member, 0), size)
    asserted = {field[0]: field[1].alignment for field in structure._fields_ if issubclass(field[1], Address)}
    assert asserted.keys() == promised.keys()
    assert [member for member, size in promised.items() if asserted[member] % size] == []


def pointers_of(module: bytes) -> dict[str, int]:
    """The bytes of what each pointer among the push constants points to."""
    instructions = list(spirv.instructions(module))
    pointees = alignment.Pointees.of(instructions)
    names, types = push_block(instructions)
    return {
        name: pointees.sizes[pointees.pointees[kind]]
        for name, kind in zip(names, types, strict=True)
        if kind in pointees.pointees
    }


class Push(Structure):
    _fields_ = [("one", Address), ("two", PairAddress), ("four", QuadAddress), ("count", c_uint32)]


def test_addresses_that_break_a_promise_are_named() -> None:
    assert misaligned(Push(one=4, two=8, four=16, count=3)) == []
    assert misaligned(Push(one=4, two=4, four=24)) == ["two", "four"]
    with pytest.raises(AssertionError, match=r"kernel: misaligned \['four'\]"):
        Dispatch("kernel", Push(four=8), None)
