"""Puts execution modes into a kernel that only some devices know: Slang has no words for them.

A module that asks for what a device lacks is refused, so they are put in when the device is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tplaunch.shaders import spirv
from tplaunch.shaders.spirv import Instruction


@dataclass(frozen=True)
class ExecutionMode:
    """A mode with its operands, and what a module has to declare for it."""

    number: int
    operands: tuple[int, ...] = ()
    capability: int | None = None
    extension: str = ""


# https://registry.khronos.org/SPIR-V/specs/unified1/SPIRV.html#Execution_Mode
KEEPS_SUBNORMALS = ExecutionMode(4459, (16,), 4464)  # DenormPreserve, of float16
ROUNDS_TO_EVEN = ExecutionMode(4462, (16,), 4467)  # RoundingModeRTE, of float16
# SubgroupUniformControlFlowKHR: lanes that part are together again where the construct ends.
REUNITES_LANES = ExecutionMode(4421, extension="SPV_KHR_subgroup_uniform_control_flow")


def with_modes(module: bytes, modes: Sequence[ExecutionMode]) -> bytes:
    """Returns the module with these modes for its entry point, of which it has none yet."""
    instructions = list(_declarations(module))
    entry = instructions[-1]
    declared = sum(len(op.words) for op in instructions)
    words = spirv.as_words(module)
    head = spirv.assembled(module, [*_with_declarations(instructions, modes), *_modes_of(entry, modes)])
    return head + np.ascontiguousarray(words[spirv.HEADER_WORDS + declared :]).tobytes()


def _declarations(module: bytes) -> Iterator[Instruction]:
    """Yields the instructions up to the entry point, with it."""
    for op in spirv.instructions(module):
        yield op
        if op.opcode == spirv.OP_ENTRY_POINT:
            return


def _with_declarations(
    instructions: Sequence[Instruction], modes: Sequence[ExecutionMode]
) -> Iterator[Instruction]:
    """Yields what is declared: capabilities first, then extensions, then the rest."""
    wanted = [mode.capability for mode in modes if mode.capability is not None]
    extensions = [mode.extension for mode in modes if mode.extension]
    firsts = (spirv.OP_CAPABILITY, spirv.OP_EXTENSION)
    yield from (Instruction(spirv.OP_CAPABILITY, (capability,)) for capability in wanted)
    yield from (op for op in instructions if op.opcode == spirv.OP_CAPABILITY)
    yield from (Instruction(spirv.OP_EXTENSION, _literal(name)) for name in extensions)
    yield from (op for op in instructions if op.opcode == spirv.OP_EXTENSION)
    yield from (op for op in instructions if op.opcode not in firsts)


def _modes_of(entry: Instruction, modes: Sequence[ExecutionMode]) -> Iterator[Instruction]:
    _, function, *_ = entry.operands
    for mode in modes:
        yield Instruction(spirv.OP_EXECUTION_MODE, (function, mode.number, *mode.operands))


def _literal(text: str) -> tuple[int, ...]:
    """Returns the words of a string literal, which ends in a zero."""
    data = text.encode() + bytes(4 - len(text) % 4)
    return tuple(np.frombuffer(data, "<u4").tolist())
