"""Finds the execution modes that a device's kernels are compiled in (shaders/execution_modes.py).

Vulkan leaves some things to the driver unless a kernel asks for them: how a number becomes float16, whether
subnormal ones survive that, and whether the lanes of a subgroup are together again behind a branch. Kernels
ask for all of these that the device knows.
"""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.shaders.execution_modes import KEEPS_SUBNORMALS, REUNITES_LANES, ROUNDS_TO_EVEN, ExecutionMode
from tplaunch.worker.vulkan.api import Handle, extensions_of, lib, struct

EXTENSION = "VK_KHR_shader_subgroup_uniform_control_flow"


def execution_modes(physical: Handle) -> tuple[ExecutionMode, ...]:
    """Asks a device of Vulkan 1.2 or later."""
    properties = struct("VkPhysicalDeviceFloatControlsProperties")
    lib.vkGetPhysicalDeviceProperties2(physical, struct("VkPhysicalDeviceProperties2", pNext=properties))
    features = uniform_control_flow(False)
    if EXTENSION in extensions_of(physical):
        lib.vkGetPhysicalDeviceFeatures2(physical, struct("VkPhysicalDeviceFeatures2", pNext=features))
    known = {
        KEEPS_SUBNORMALS: properties.shaderDenormPreserveFloat16,
        ROUNDS_TO_EVEN: properties.shaderRoundingModeRTEFloat16,
        REUNITES_LANES: features.shaderSubgroupUniformControlFlow,
    }
    return tuple(mode for mode, is_known in known.items() if is_known)


def uniform_control_flow(is_enabled: bool) -> Handle:
    """The struct that enables REUNITES_LANES, or that is asked for it."""
    name = "VkPhysicalDeviceShaderSubgroupUniformControlFlowFeaturesKHR"
    return struct(name, shaderSubgroupUniformControlFlow=is_enabled)


def needed_extensions(modes: Sequence[ExecutionMode]) -> list[str]:
    """Returns the extensions that a device is opened with, so that its kernels may have these modes."""
    return [EXTENSION] if REUNITES_LANES in modes else []
