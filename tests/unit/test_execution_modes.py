"""Execution modes that kernels get when the device is known."""

from __future__ import annotations

import pytest

from tplaunch.shaders import spirv
from tplaunch.shaders.execution_modes import KEEPS_SUBNORMALS, REUNITES_LANES, ROUNDS_TO_EVEN, with_modes
from tplaunch.shaders.load import load_kernel
from tplaunch.worker.vulkan.execution_modes import EXTENSION, needed_extensions

ALL = (KEEPS_SUBNORMALS, ROUNDS_TO_EVEN, REUNITES_LANES)
# Sections of a module, by the opcodes in them: SPIR-V's specification, section 2.4.
SECTIONS = {
    spirv.OP_CAPABILITY: 0,
    spirv.OP_EXTENSION: 1,
    11: 2,  # OpExtInstImport
    14: 3,  # OpMemoryModel
    spirv.OP_ENTRY_POINT: 4,
    spirv.OP_EXECUTION_MODE: 5,
}


@pytest.mark.parametrize("name", ["matrices_q8_0", "sum_norm", "attention_f16_1_wide"])
def test_modes_stand_where_they_belong_and_all_else_stays(name: str) -> None:
    module = load_kernel(name)
    before, after = (list(spirv.instructions(each)) for each in (module, with_modes(module, ALL)))
    sections = [SECTIONS.get(op.opcode, 6) for op in after]
    assert sections == sorted(sections)
    added = [op for op in after if op not in before]
    entry = next(op.operands[1] for op in before if op.opcode == spirv.OP_ENTRY_POINT)
    assert [(op.opcode, op.operands) for op in added if op.opcode != spirv.OP_EXTENSION] == [
        (spirv.OP_CAPABILITY, (4464,)),
        (spirv.OP_CAPABILITY, (4467,)),
        (spirv.OP_EXECUTION_MODE, (entry, 4459, 16)),
        (spirv.OP_EXECUTION_MODE, (entry, 4462, 16)),
        (spirv.OP_EXECUTION_MODE, (entry, 4421)),
    ]
    (extension,) = (op for op in added if op.opcode == spirv.OP_EXTENSION)
    assert extension.text(0) == "SPV_KHR_subgroup_uniform_control_flow"
    assert [op for op in after if op not in added] == before


def test_a_device_that_knows_none_gets_the_module_as_it_is() -> None:
    assert with_modes(load_kernel("sum_norm"), ()) == load_kernel("sum_norm")


def test_only_lanes_that_are_to_meet_need_an_extension_of_vulkan() -> None:
    assert needed_extensions(ALL) == [EXTENSION]
    assert needed_extensions((KEEPS_SUBNORMALS, ROUNDS_TO_EVEN)) == []
