"""Gives cooperative matrices sizes that the host chooses: specialisation constants.

Slang takes numbers only. So shaders/matrices.slang writes numbers that stand for its constants, and here the
matrices' types get the constants in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tplaunch.shaders import spirv
from tplaunch.shaders.spirv import Instruction

SPEC_ID_DECORATION = 1
FIRST_PLACEHOLDER = 1000  # stands for the constant with the id 0, the next number for that with 1, and so on


def sized(instructions: Sequence[Instruction]) -> Iterator[Instruction]:
    """Yields the same instructions, in which types of matrices have constants in place of placeholders."""
    numbers = {
        op.operands[1]: op.operands[2] - FIRST_PLACEHOLDER
        for op in instructions
        if op.opcode == spirv.OP_CONSTANT and op.operands[2] >= FIRST_PLACEHOLDER
    }
    named = {
        op.operands[2]: op.operands[0]
        for op in instructions
        if op.opcode == spirv.OP_DECORATE and op.operands[1] == SPEC_ID_DECORATION
    }
    constants = [op for op in instructions if op.opcode == spirv.OP_SPEC_CONSTANT]
    for op in instructions:
        if op.opcode == spirv.OP_TYPE_COOPERATIVE_MATRIX:
            sizes = (named[numbers[size]] if size in numbers else size for size in op.operands[3:5])
            yield Instruction(op.opcode, (*op.operands[:3], *sizes, *op.operands[5:]))
        elif op.opcode != spirv.OP_SPEC_CONSTANT:
            yield op
        if op.opcode == spirv.OP_TYPE_INT:  # they have to stand before the types of matrices
            yield from (constant for constant in constants if constant.operands[0] == op.operands[0])
