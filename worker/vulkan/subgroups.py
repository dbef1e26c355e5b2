"""Chooses the size of subgroups, so that no driver's compiler chooses another one for each kernel.

Sums over lanes round by how many there are, and grids are as large as the lanes of a subgroup say: a size
that is fixed for all kernels keeps both (VK_EXT_subgroup_size_control, which Vulkan 1.3 has).
"""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.worker.vulkan.api import Handle, lib, struct, vk

EXTENSION = "VK_EXT_subgroup_size_control"
INTEL, INTEL_LANES = 0x8086, 16  # of 8, 16 and 32: with 32 lanes large kernels have too few registers
ALL_LANES = 2  # VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT; the package lacks 1.3's name


@dataclass(frozen=True)
class SubgroupSizes:
    """The sizes of a device's subgroups, in lanes, and the one that kernels ask for."""

    least: int
    most: int
    required: int = 0  # the size that pipelines ask for; 0 where they can't
    full: bool = False  # they may ask that all lanes run

    @property
    def widest(self) -> int:
        """The lanes of the widest subgroups that kernels may get."""
        return self.required or self.most

    @property
    def narrowest(self) -> int:
        """The lanes of the narrowest subgroups that kernels may get."""
        return self.required or self.least

    def allows(self, lanes: int) -> bool:
        """Tells if a kernel surely gets subgroups of so many lanes, where it asks for them if it can."""
        if self.required:
            return self.least <= lanes <= self.most
        return self.least == self.most == lanes

    def of_workgroup(self, num_invocations: int) -> int:
        """The size that a kernel with such workgroups asks for; 0 where it can't be asked for."""
        size = min(self.required, num_invocations)
        return size if size >= self.least and num_invocations % size == 0 else 0

    def flags(self, num_invocations: int, size: int) -> int:
        """The flags of a pipeline that asks for this size, or for none with 0."""
        divides = num_invocations % (size or self.most) == 0
        return ALL_LANES if self.full and divides else 0


def subgroup_sizes(
    handle: Handle, default: int, vendor_id: int, has_control: bool, in_core: bool
) -> SubgroupSizes:
    """Asks a device. `default` is what it says of its subgroups since Vulkan 1.1.

    It `has_control` of their size by an extension, or `in_core` since Vulkan 1.3.
    """
    if not (has_control or in_core):
        return SubgroupSizes(default, default)
    properties = struct("VkPhysicalDeviceSubgroupSizeControlProperties")
    lib.vkGetPhysicalDeviceProperties2(handle, struct("VkPhysicalDeviceProperties2", pNext=properties))
    features = struct("VkPhysicalDeviceSubgroupSizeControlFeatures")
    lib.vkGetPhysicalDeviceFeatures2(handle, struct("VkPhysicalDeviceFeatures2", pNext=features))
    least, most = properties.minSubgroupSize or default, properties.maxSubgroupSize or default
    can_require = features.subgroupSizeControl and (
        properties.requiredSubgroupSizeStages & vk.VK_SHADER_STAGE_COMPUTE_BIT
    )
    wanted = INTEL_LANES if vendor_id == INTEL and least <= INTEL_LANES <= most else default
    return SubgroupSizes(least, most, wanted if can_require else 0, bool(features.computeFullSubgroups))
