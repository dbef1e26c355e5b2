"""Promises of each access to memory, how many bytes its address is a multiple of.

Slang promises a component's four for every vector, and then NVIDIA's compiler loads it component by component
(https://docs.vulkan.org/guide/latest/buffer_device_address_alignment.html). A pointer to a vector steps by
whole vectors, so an access is aligned as the pointer in the push constants is, which the host asserts:
worker/vulkan/push_constants/fields.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from tplaunch.shaders import spirv
from tplaunch.shaders.spirv import Instruction

# Of the memory operands of an access: a number of bytes follows the second one, nothing the first.
VOLATILE_BIT, ALIGNED_BIT = 1, 2
STRIDE_DECORATION = 6
# Where the operands of an access begin that say how it is done.
MEMORY_OPERANDS = {spirv.OP_LOAD: 3, spirv.OP_STORE: 2}
# Instructions whose second operand is a pointer that has the first one for its type. Those made of a number
# are a pointer to vectors and whole vectors behind it (WideWords in weights.slang).
POINTERS = (spirv.OP_ACCESS_CHAIN, spirv.OP_PTR_ACCESS_CHAIN, spirv.OP_CONVERT_TO_POINTER)


@dataclasses.dataclass(frozen=True)
class Pointees:
    """The sizes of what a module's pointers to memory point to, in bytes."""

    sizes: dict[int, int]  # of scalars and vectors, by type
    pointees: dict[int, int]  # the type that a type of pointers points to
    strides: dict[int, int]  # by type of pointers
    types: dict[int, int]  # of pointers, by pointer

    @classmethod
    def of(cls, instructions: Iterable[Instruction]) -> Pointees:
        """Reads them off the declarations and the steps of pointers."""
        found = cls({}, {}, {}, {})
        for op in instructions:
            if op.opcode in (spirv.OP_TYPE_INT, spirv.OP_TYPE_FLOAT):
                found.sizes[op.operands[0]] = op.operands[1] // 8
            elif op.opcode == spirv.OP_TYPE_VECTOR and op.operands[1] in found.sizes:
                found.sizes[op.operands[0]] = found.sizes[op.operands[1]] * op.operands[2]
            elif op.opcode == spirv.OP_TYPE_POINTER:
                found.pointees[op.operands[0]] = op.operands[2]
            elif op.opcode == spirv.OP_DECORATE and op.operands[1] == STRIDE_DECORATION:
                found.strides[op.operands[0]] = op.operands[2]
            elif op.opcode in POINTERS:
                found.types[op.operands[1]] = op.operands[0]
        return found

    def step(self, pointer: int) -> int:
        """Returns the bytes that a pointer to numbers or vectors steps by, 0 for one to anything else."""
        kind = self.types.get(pointer, 0)
        size = self.sizes.get(self.pointees.get(kind, 0), 0)
        return size if self.strides.get(kind) == size else 0


def promised(op: Instruction) -> int | None:
    """Returns the bytes that an access promises, None for what promises nothing."""
    start = MEMORY_OPERANDS.get(op.opcode)
    if start is None or len(op.operands) <= start or not op.operands[start] & ALIGNED_BIT:
        return None
    assert op.operands[start] & ~VOLATILE_BIT == ALIGNED_BIT, "other memory operands would come first"
    return op.operands[start + 1]


def aligned(instructions: Sequence[Instruction]) -> Iterator[Instruction]:
    """The same instructions, of which each access promises what its pointer steps by."""
    pointees = Pointees.of(instructions)
    for op in instructions:
        if promised(op) is None:
            yield op
            continue
        start = MEMORY_OPERANDS[op.opcode]
        step = pointees.step(op.operands[start - 1 if op.opcode == spirv.OP_LOAD else 0])
        yield dataclasses.replace(op, operands=(*op.operands[: start + 1], step or op.operands[start + 1]))
