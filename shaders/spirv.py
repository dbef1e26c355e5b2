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
OP_CAPABILITY, OP_TYPE_STRUCT, OP_TYPE_POINTER, OP_VARIABLE, OP_MEMBER_DECORATE = 17, 30, 32, 59, 72
OP_BITCAST, OP_NO_LINE, OP_MODULE_PROCESSED = 124, 317, 330

Words = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Instruction:
    """An opcode and its operands."""

    opcode: int
    operands: tuple[int, ...]

    @property
    def words(self) -> list[int]:
        """As it stands in a module."""
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
