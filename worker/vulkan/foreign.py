"""Compiles SPIR-V that other programs made, to compare what a driver says of it.

Gives it the storage buffers that it names, and specialisation constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tplaunch.shaders import spirv
from tplaunch.worker.vulkan.api import Handle, array, create, ffi, lib, struct, vk
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.pipelines import compute_pipeline

BINDING, DESCRIPTOR_SET = 33, 34  # SPIR-V decorations
PUSH_BYTES = 256  # what every driver of today has; 128 are promised
DESCRIPTORS = 8  # of a binding: some are arrays


class Binding(NamedTuple):
    """Where a module finds a buffer."""

    set: int
    number: int


def bindings_of(module: bytes) -> set[Binding]:
    """Returns where a module finds its buffers."""
    places: dict[int, dict[int, int]] = {}
    for op in spirv.instructions(module):
        if op.opcode == spirv.OP_DECORATE and op.operands[1] in {BINDING, DESCRIPTOR_SET}:
            places.setdefault(op.operands[0], {})[op.operands[1]] = op.operands[2]
    return {Binding(place.get(DESCRIPTOR_SET, 0), place.get(BINDING, 0)) for place in places.values()}


def compile_foreign(
    context: Context, module: bytes, constants: Mapping[int, int], subgroup_size: int = 0
) -> None:
    """Makes a pipeline, and throws it away: the driver has said what it has to say."""
    bindings = bindings_of(module)
    sets = [
        _set_layout(context, bindings, number)
        for number in range(1 + max((b.set for b in bindings), default=-1))
    ]
    push = struct("VkPushConstantRange", stageFlags=vk.VK_SHADER_STAGE_COMPUTE_BIT, offset=0, size=PUSH_BYTES)
    info = struct(
        "VkPipelineLayoutCreateInfo",
        setLayoutCount=len(sets),
        pSetLayouts=array("VkDescriptorSetLayout", sets),
        pushConstantRangeCount=1,
        pPushConstantRanges=push,
    )
    layout = create("vkCreatePipelineLayout", "VkPipelineLayout", context.device, info)
    pipeline = compute_pipeline(
        context.device, layout, module, constants=constants, subgroup_size=subgroup_size
    )
    lib.vkDestroyPipeline(context.device, pipeline, ffi.NULL)
    lib.vkDestroyPipelineLayout(context.device, layout, ffi.NULL)
    for made in sets:
        lib.vkDestroyDescriptorSetLayout(context.device, made, ffi.NULL)


def _set_layout(context: Context, bindings: set[Binding], number: int) -> Handle:
    found = sorted(binding.number for binding in bindings if binding.set == number)
    entries = ffi.new(
        "VkDescriptorSetLayoutBinding[]",
        [
            {
                "binding": place,
                "descriptorType": vk.VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                "descriptorCount": DESCRIPTORS,
                "stageFlags": vk.VK_SHADER_STAGE_COMPUTE_BIT,
            }
            for place in found
        ],
    )
    info = struct("VkDescriptorSetLayoutCreateInfo", bindingCount=len(found), pBindings=entries)
    return create("vkCreateDescriptorSetLayout", "VkDescriptorSetLayout", context.device, info)
