"""Barriers stand where all of a workgroup comes by, and no kernel asks for more than every device has."""

from __future__ import annotations

import numpy as np
import pytest

from tplaunch.shaders import spirv
from tplaunch.shaders.analysis.limits import num_invocations, workgroup_bytes
from tplaunch.shaders.analysis.uniformity import violations
from tplaunch.shaders.analysis.values import UnknownInstruction
from tplaunch.shaders.load import kernel_names, load_kernel
from tplaunch.shaders.spirv import Instruction
from tplaunch.worker.vulkan.matrices import WORKGROUP_BYTES
from tplaunch.worker.vulkan.variants import LARGE_WORKGROUPS, needed_invocations

# What Vulkan promises of every device: https://docs.vulkan.org/spec/latest/chapters/limits.html
MIN_WORKGROUP_BYTES = 16384

# Ids of the small kernels below: types, inputs, constants, then what they compute.
VOID, FUNCTION_TYPE, UINT, BOOL, POINTER, SHARED_POINTER, INPUT_POINTER = range(1, 8)
SUBGROUP, NUM_SUBGROUPS, INVOCATION, SHARED, MAIN = range(8, 13)
ZERO, ONE, WORKGROUP_SCOPE, SUBGROUP_SCOPE, SEMANTICS = range(13, 18)
COUNTER, BOUND, COUNT, IS_LESS, NEXT, SUM = range(18, 24)
START, HEADER, TEST, BODY, CONTINUE, MERGE = range(24, 30)
BUILTINS = {SUBGROUP: 40, NUM_SUBGROUPS: 38, INVOCATION: 29}


def op(opcode: int, *operands: int) -> Instruction:
    return Instruction(opcode, operands)


def kernel(*body: Instruction) -> bytes:
    """A module whose entry point has this body; a uint of the workgroup is there to use."""
    constants = {ZERO: 0, ONE: 1, WORKGROUP_SCOPE: 2, SUBGROUP_SCOPE: 3, SEMANTICS: 0x108}
    header = np.array([spirv.MAGIC, 0x10500, 0, 64, 0], "<u4").tobytes()
    return spirv.assembled(
        header,
        [
            op(spirv.OP_ENTRY_POINT, 5, MAIN, 0x6E69616D, 0, *BUILTINS, SHARED),
            op(spirv.OP_EXECUTION_MODE, MAIN, 17, 32, 2, 1),
            *(op(spirv.OP_DECORATE, variable, 11, builtin) for variable, builtin in BUILTINS.items()),
            op(19, VOID),
            op(33, FUNCTION_TYPE, VOID),
            op(spirv.OP_TYPE_INT, UINT, 32, 0),
            op(spirv.OP_TYPE_BOOL, BOOL),
            op(spirv.OP_TYPE_POINTER, POINTER, 7, UINT),
            op(spirv.OP_TYPE_POINTER, SHARED_POINTER, 4, UINT),
            op(spirv.OP_TYPE_POINTER, INPUT_POINTER, 1, UINT),
            *(op(spirv.OP_CONSTANT, UINT, name, value) for name, value in constants.items()),
            *(op(spirv.OP_VARIABLE, INPUT_POINTER, variable, 1) for variable in BUILTINS),
            op(spirv.OP_VARIABLE, SHARED_POINTER, SHARED, 4),
            op(spirv.OP_FUNCTION, VOID, MAIN, 0, FUNCTION_TYPE),
            *body,
            op(spirv.OP_FUNCTION_END),
        ],
    )


def loop(bound: int, inside: list[Instruction], before: list[Instruction] | None = None) -> bytes:
    """for (counter = 0; counter < *bound; counter++) inside;"""
    return kernel(
        op(spirv.OP_LABEL, START),
        op(spirv.OP_VARIABLE, POINTER, COUNTER, 7),
        *(before or []),
        op(spirv.OP_LOAD, UINT, BOUND, bound),
        op(spirv.OP_STORE, COUNTER, ZERO),
        op(spirv.OP_BRANCH, HEADER),
        op(spirv.OP_LABEL, HEADER),
        op(spirv.OP_LOOP_MERGE, MERGE, CONTINUE, 0),
        op(spirv.OP_BRANCH, TEST),
        op(spirv.OP_LABEL, TEST),
        op(spirv.OP_LOAD, UINT, COUNT, COUNTER),
        op(176, BOOL, IS_LESS, COUNT, BOUND),  # OpULessThan
        op(spirv.OP_BRANCH_CONDITIONAL, IS_LESS, BODY, MERGE),
        op(spirv.OP_LABEL, BODY),
        *inside,
        op(spirv.OP_BRANCH, CONTINUE),
        op(spirv.OP_LABEL, CONTINUE),
        op(128, UINT, NEXT, COUNT, ONE),  # OpIAdd
        op(spirv.OP_STORE, COUNTER, NEXT),
        op(spirv.OP_BRANCH, HEADER),
        op(spirv.OP_LABEL, MERGE),
        barrier(WORKGROUP_SCOPE),
        op(spirv.OP_RETURN),
    )


def barrier(scope: int) -> Instruction:
    return op(spirv.OP_CONTROL_BARRIER, scope, scope, SEMANTICS)


def choice(condition: int, then: list[Instruction], ends: bool = False) -> bytes:
    """if (*condition < 1) then; or, where it ends the kernel, { return; } before the same."""
    return kernel(
        op(spirv.OP_LABEL, START),
        op(spirv.OP_LOAD, UINT, BOUND, condition),
        op(176, BOOL, IS_LESS, BOUND, ONE),
        op(spirv.OP_SELECTION_MERGE, MERGE, 0),
        op(spirv.OP_BRANCH_CONDITIONAL, IS_LESS, BODY, MERGE),
        op(spirv.OP_LABEL, BODY),
        *([] if ends else then),
        op(spirv.OP_RETURN) if ends else op(spirv.OP_BRANCH, MERGE),
        op(spirv.OP_LABEL, MERGE),
        *(then if ends else []),
        op(spirv.OP_RETURN),
    )


WRITE = op(spirv.OP_STORE, SHARED, ONE)
REDUCE = op(349, UINT, SUM, SUBGROUP_SCOPE, 0, ONE)  # OpGroupNonUniformIAdd
OF_WORKGROUP, OF_SUBGROUP = "differs within the workgroup", "differs within the subgroup"


@pytest.mark.parametrize("name", kernel_names())
def test_kernels_wait_only_where_all_come_by(name: str) -> None:
    assert violations(load_kernel(name)) == []


@pytest.mark.parametrize("scope", [SUBGROUP_SCOPE, WORKGROUP_SCOPE])
@pytest.mark.parametrize(("bound", "num_found"), [(NUM_SUBGROUPS, 0), (SUBGROUP, 1), (INVOCATION, 1)])
def test_a_barrier_in_a_loop_of_unlike_lengths(scope: int, bound: int, num_found: int) -> None:
    """Such was attention's: each subgroup went through its keys. The barrier behind the loop is all right."""
    found = violations(loop(bound, [barrier(scope)]))
    assert len(found) == num_found
    assert all(OF_WORKGROUP in sentence for sentence in found)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("condition", [SUBGROUP, INVOCATION])
def test_a_barrier_that_some_do_not_reach(condition: int, ends: bool) -> None:
    assert len(violations(choice(condition, [barrier(WORKGROUP_SCOPE)], ends))) == 1
    assert violations(choice(NUM_SUBGROUPS, [barrier(WORKGROUP_SCOPE)], ends)) == []


@pytest.mark.parametrize(
    ("before", "inside", "num_found"),
    [
        (
            [WRITE],
            [],
            1,
        ),  # some may read before others write, and leave the loop before the barrier behind it
        ([WRITE, barrier(SUBGROUP_SCOPE)], [], 1),
        ([WRITE, barrier(WORKGROUP_SCOPE)], [], 0),
        ([WRITE, barrier(WORKGROUP_SCOPE)], [WRITE], 1),
    ],
)
def test_what_a_workgroup_shares_is_alike_behind_a_barrier(
    before: list[Instruction], inside: list[Instruction], num_found: int
) -> None:
    assert len(violations(loop(SHARED, [*inside, barrier(SUBGROUP_SCOPE)], before))) == num_found


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("condition", "num_found"), [(NUM_SUBGROUPS, 0), (SUBGROUP, 0), (INVOCATION, 1)])
def test_a_sum_over_a_subgroup_that_not_all_lanes_reach(condition: int, num_found: int, ends: bool) -> None:
    found = violations(choice(condition, [REDUCE], ends))
    assert len(found) == num_found
    assert all(OF_SUBGROUP in sentence for sentence in found)


def test_an_instruction_that_no_one_knows_is_refused() -> None:
    atomic = op(234, UINT, SUM, SHARED, WORKGROUP_SCOPE, SEMANTICS, ONE)  # OpAtomicIAdd
    with pytest.raises(UnknownInstruction, match="opcode 234"):
        violations(choice(NUM_SUBGROUPS, [atomic]))


@pytest.mark.parametrize("name", kernel_names())
def test_kernels_ask_for_no_more_than_every_device_has(name: str) -> None:
    """Or they are known to: then a device that has less gets another one."""
    module = load_kernel(name)
    assert num_invocations(module) == LARGE_WORKGROUPS.get(name, num_invocations(module))
    assert num_invocations(module) <= needed_invocations(name)
    most = WORKGROUP_BYTES if "matrices" in name.split("_") else MIN_WORKGROUP_BYTES
    assert workgroup_bytes(module) <= most


def test_a_small_kernel_is_measured() -> None:
    module = choice(SUBGROUP, [])
    assert (num_invocations(module), workgroup_bytes(module)) == (64, 4)
