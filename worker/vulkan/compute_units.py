"""Asks a driver how many units of compute a device has, as far as it can be asked."""

from __future__ import annotations

from collections.abc import Collection

from tplaunch.worker.vulkan.api import Handle, lib, struct

NVIDIA, AMD = "VK_NV_shader_sm_builtins", "VK_AMD_shader_core_properties2"
UNKNOWN = 32  # those of a card of the middle


def compute_units(handle: Handle, extensions: Collection[str]) -> int:
    """Returns the units that run workgroups independently of each other: multiprocessors, compute units."""
    if NVIDIA in extensions:
        return int(_asked(handle, "VkPhysicalDeviceShaderSMBuiltinsPropertiesNV").shaderSMCount) or UNKNOWN
    if AMD in extensions:
        answer = _asked(handle, "VkPhysicalDeviceShaderCoreProperties2AMD")
        return int(answer.activeComputeUnitCount) or UNKNOWN
    return UNKNOWN


def _asked(handle: Handle, name: str) -> Handle:
    properties = struct(name)
    lib.vkGetPhysicalDeviceProperties2(handle, struct("VkPhysicalDeviceProperties2", pNext=properties))
    return properties
