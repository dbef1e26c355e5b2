"""Finds the cooperative matrices that a device multiplies: float16 by float16 into float32."""

from __future__ import annotations

from typing import Protocol

from tplaunch.worker.vulkan.api import Handle, chained, check, ffi, lib, struct, vk
from tplaunch.worker.vulkan.instance import Instance
from tplaunch.worker.vulkan.push_constants.kernels import MATRIX_SIZES

EXTENSION = "VK_KHR_cooperative_matrix"
GROUP_SIZE = 64  # invocations of a workgroup of shaders/matmul_coop.slang, which must be whole subgroups
# Beside the extension's own: what its kernels need of Vulkan 1.2.
FEATURES = ("shaderFloat16", "vulkanMemoryModel", "vulkanMemoryModelDeviceScope")


class Described(Protocol):
    """The facts that this file needs of worker.vulkan.listing.PhysicalDevice, which asks it."""

    @property
    def cooperative_matrix(self) -> bool: ...

    @property
    def max_subgroup_size(self) -> int: ...


def matrix_size(instance: Instance, physical: Handle, info: Described) -> int:
    """The best of MATRIX_SIZES that the device has; 0 where none can be used."""
    if not info.cooperative_matrix or GROUP_SIZE % info.max_subgroup_size or not _has_features(physical):
        return 0
    sizes = _square_sizes(instance, physical)
    return next((size for size in MATRIX_SIZES if size in sizes), 0)


def _has_features(physical: Handle) -> bool:
    core, matrices = (
        struct("VkPhysicalDeviceVulkan12Features"),
        struct("VkPhysicalDeviceCooperativeMatrixFeaturesKHR"),
    )
    head = struct("VkPhysicalDeviceFeatures2", pNext=chained([core, matrices]))
    lib.vkGetPhysicalDeviceFeatures2(physical, head)
    return bool(matrices.cooperativeMatrix) and all(getattr(core, name) for name in FEATURES)


def _square_sizes(instance: Instance, physical: Handle) -> set[int]:
    """An extension's function; the loader's library does not export it."""
    name = "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"
    function, count = instance.function(name), ffi.new("uint32_t *")
    check(function(physical, count, ffi.NULL), name)
    found = ffi.new("VkCooperativeMatrixPropertiesKHR[]", count[0])
    for properties in found:
        properties.sType = vk.VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR
    check(function(physical, count, found), name)
    half, single = vk.VK_COMPONENT_TYPE_FLOAT16_KHR, vk.VK_COMPONENT_TYPE_FLOAT32_KHR
    return {
        matrix.MSize
        for matrix in found
        if matrix.MSize == matrix.NSize == matrix.KSize
        and (matrix.AType, matrix.BType, matrix.CType, matrix.ResultType) == (half, half, single, single)
        and matrix.scope == vk.VK_SCOPE_SUBGROUP_KHR
        and not matrix.saturatingAccumulation
    }
