"""SPIR-V as a list of instructions: what building and testing need to know of it, and no more.

https://registry.khronos.org/SPIR-V/specs/unified1/SPIRV.html, sections 2.3 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAGIC = 0x07230203
HEADER_WORDS = 5

OP_SOURCE, OP_SOURCE_EXTENSION, OP_NAME, OP_MEMBER_NAME, OP_STRING, OP_LINE = 3, 4, 5, 6, 7, 8
OP_UNDEF, OP_EXTENSION, OP_EXT_INST, OP_ENTRY_POINT, OP_EXECUTION_MODE, OP_CAPABILITY = 1, 10, 12, 15, 16, 17
OP_TYPE_BOOL, OP_TYPE_INT, OP_TYPE_FLOAT, OP_TYPE_VECTOR = 20, 21, 22, 23
OP_TYPE_ARRAY, OP_TYPE_STRUCT, OP_TYPE_POINTER, OP_TYPE_COOPERATIVE_MATRIX = 28, 30, 32, 4456
OP_CONSTANT, OP_SPEC_CONSTANT, OP_SPEC_CONSTANT_OPERATION = 43, 50, 52
OP_FUNCTION, OP_FUNCTION_PARAMETER, OP_FUNCTION_END, OP_FUNCTION_CALL = 54, 55, 56, 57
OP_VARIABLE, OP_LOAD, OP_STORE, OP_ACCESS_CHAIN, OP_PTR_ACCESS_CHAIN = 59, 61, 62, 65, 67
OP_DECORATE, OP_MEMBER_DECORATE, OP_VECTOR_SHUFFLE = 71, 72, 79
OP_COMPOSITE_CONSTRUCT, OP_COMPOSITE_EXTRACT, OP_COMPOSITE_INSERT, OP_COPY_OBJECT = 80, 81, 82, 83
OP_CONVERT_TO_POINTER, OP_BITCAST, OP_CONTROL_BARRIER, OP_MEMORY_BARRIER = 120, 124, 224, 225
OP_LOOP_MERGE, OP_SELECTION_MERGE, OP_LABEL, OP_BRANCH, OP_BRANCH_CONDITIONAL = 246, 247, 248, 249, 250
OP_SWITCH, OP_RETURN, OP_RETURN_VALUE, OP_UNREACHABLE = 251, 253, 254, 255
OP_NO_LINE, OP_MODULE_PROCESSED = 317, 330
OP_COOPERATIVE_MATRIX_LOAD, OP_COOPERATIVE_MATRIX_STORE, OP_COOPERATIVE_MATRIX_MULTIPLY = 4457, 4458, 4459

Words = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Instruction:
    """An opcode and its operands."""

    opcode: int
    operands: tuple[int, ...]

    @property
    def words(self) -> list[int]:
        """The words of the instruction as they stand in a module."""
        return [(len(self.operands) + 1) << 16 | self.opcode, *self.operands]

    def text(self, start: int) -> str:
        """The string literal that starts at this operand."""
        data = np.array(self.operands[start:], "<u4").tobytes()
        return data[: data.index(0)].decode()


def as_words(module: bytes) -> Words:
    """Raises ValueError for what is no SPIR-V module."""
    words = np.frombuffer(module, "<u4") if len(module) % 4 == 0 else np.zeros(0, np.uint32)
    if len(words) < HEADER_WORDS or words[0] != MAGIC:
        raise ValueError("it does not begin with SPIR-V's magic number")
    return words


def instructions(module: bytes) -> Iterator[Instruction]:
    """All instructions of a module, in order."""
    words = as_words(module).tolist()
    position = HEADER_WORDS
    while position < len(words):
        length = words[position] >> 16
        yield Instruction(words[position] & 0xFFFF, tuple(words[position + 1 : position + length]))
        position += length


def assembled(header_of: bytes, kept: list[Instruction]) -> bytes:
    """A module of these instructions with another one's header."""
    header = as_words(header_of)[:HEADER_WORDS].tolist()
    words = [word for instruction in kept for word in instruction.words]
    return np.array(header + words, "<u4").tobytes()
