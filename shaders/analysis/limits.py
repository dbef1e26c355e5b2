"""Reads the demands of a kernel on every device: the size of a workgroup and of its shared memory."""

from __future__ import annotations

from math import prod

from tplaunch.shaders import spirv
from tplaunch.shaders.analysis.trees import Types

LOCAL_SIZE_MODE, WORKGROUP_CLASS = 17, 4
MATRIX_CAPABILITY = 6022  # CooperativeMatrixKHR


def num_invocations(module: bytes) -> int:
    """Counts the invocations of a workgroup of the kernel."""
    modes = (op for op in spirv.instructions(module) if op.opcode == spirv.OP_EXECUTION_MODE)
    return next(prod(op.operands[2:5]) for op in modes if op.operands[1] == LOCAL_SIZE_MODE)


def has_matrices(module: bytes) -> bool:
    """Returns true if the kernel multiplies cooperative matrices."""
    capabilities = (op for op in spirv.instructions(module) if op.opcode == spirv.OP_CAPABILITY)
    return any(op.operands[0] == MATRIX_CAPABILITY for op in capabilities)


def workgroup_bytes(module: bytes) -> int:
    """Returns the bytes of memory that a workgroup of the kernel shares, at most."""
    instructions = list(spirv.instructions(module))
    types = Types(instructions)
    return sum(
        types.nbytes(types.pointee(op.operands[0]))
        for op in instructions
        if op.opcode == spirv.OP_VARIABLE and op.operands[2] == WORKGROUP_CLASS
    )
