"""Finds the cooperative matrices that a device multiplies: float16 by float16 into float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tplaunch.shaders.execution_modes import ROUNDS_TO_EVEN
from tplaunch.worker.vulkan.api import Handle, chained, check, ffi, lib, struct, vk
from tplaunch.worker.vulkan.execution_modes import execution_modes
from tplaunch.worker.vulkan.instance import Instance
from tplaunch.worker.vulkan.subgroups import SubgroupSizes
from tplaunch.worker.vulkan.variants import needed_invocations

NUM_INVOCATIONS = needed_invocations("matrices")
EXTENSION = "VK_KHR_cooperative_matrix"
# Beside the extension's own: what its kernels need of Vulkan 1.2.
FEATURES = ("shaderFloat16", "vulkanMemoryModel", "vulkanMemoryModelDeviceScope")
# Of shaders/matrices.slang and attend_matrices.slang: the bytes that workgroups share, the columns or keys
# that they bring at a time, rows and columns that matrices must divide, and a lane's numbers of one of sums.
WORKGROUP_BYTES, TILE_COLUMNS, LEAST_ROWS, LEAST_COLUMNS, LANE_NUMBERS = 32768, 32, 32, 16, 8


@dataclass(frozen=True)
class MatrixShape:
    """Matrices of m x k by k x n numbers, that a subgroup of so many lanes multiplies."""

    m: int
    n: int
    k: int

    @property
    def lanes(self) -> int:
        """Lanes of a subgroup, by which shaders/matrices.slang shares out its tile."""
        return self.m * self.n // LANE_NUMBERS

    @property
    def constants(self) -> Mapping[int, int]:
        """Specialisation constants of shaders/matrices.slang."""
        return dict(enumerate((self.m, self.n, self.k)))

    def fits(self, sizes: SubgroupSizes) -> bool:
        """Tells if the kernels can multiply such matrices on a device with subgroups of these sizes."""
        divides = LEAST_ROWS % self.m == LEAST_COLUMNS % self.n == TILE_COLUMNS % self.k == 0
        is_whole = self.m * self.n % LANE_NUMBERS == 0 and NUM_INVOCATIONS % (2 * self.lanes) == 0
        return divides and is_whole and sizes.allows(self.lanes)


class Described(Protocol):
    """The facts that this file needs of worker.vulkan.listing.PhysicalDevice, which asks it."""

    @property
    def cooperative_matrix(self) -> bool: ...

    @property
    def subgroup_shuffle(self) -> bool: ...

    @property
    def float16(self) -> bool: ...

    @property
    def max_invocations(self) -> int: ...

    @property
    def sizes(self) -> SubgroupSizes: ...


def matrix_shape(instance: Instance, physical: Handle, info: Described) -> MatrixShape | None:
    """The matrices that the kernels multiply on a device; None where they can't use any.

    What `info` lacks counts as missing, whatever the driver says. So does a device that can't be told how to
    round: its driver might make all weights a little smaller.
    """
    has_all = info.cooperative_matrix and info.float16 and info.subgroup_shuffle
    if not has_all or info.max_invocations < NUM_INVOCATIONS or not _has_room(physical):
        return None
    if not _has_features(physical) or ROUNDS_TO_EVEN not in execution_modes(physical):
        return None
    return best_shape(_shapes(instance, physical), info.sizes)


def best_shape(shapes: Iterable[MatrixShape], sizes: SubgroupSizes) -> MatrixShape | None:
    """The best of the shapes that the kernels can multiply; None for none.

    It is for the most lanes. Of several for as many the squarest one reads least for what it multiplies; of
    these the deepest one takes the fewest instructions.
    """
    fitting = [shape for shape in shapes if shape.fits(sizes)]
    return max(fitting, key=lambda shape: (shape.lanes, -shape.m - shape.n, shape.k, shape.m), default=None)


def _has_room(physical: Handle) -> bool:
    properties = ffi.new("VkPhysicalDeviceProperties *")
    lib.vkGetPhysicalDeviceProperties(physical, properties)
    return bool(properties.limits.maxComputeSharedMemorySize >= WORKGROUP_BYTES)


def _has_features(physical: Handle) -> bool:
    core, matrices = (
        struct("VkPhysicalDeviceVulkan12Features"),
        struct("VkPhysicalDeviceCooperativeMatrixFeaturesKHR"),
    )
    head = struct("VkPhysicalDeviceFeatures2", pNext=chained([core, matrices]))
    lib.vkGetPhysicalDeviceFeatures2(physical, head)
    return bool(matrices.cooperativeMatrix) and all(getattr(core, name) for name in FEATURES)


def _shapes(instance: Instance, physical: Handle) -> list[MatrixShape]:
    """An extension's function; the loader's library does not export it."""
    name = "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"
    function, count = instance.function(name), ffi.new("uint32_t *")
    check(function(physical, count, ffi.NULL), name)
    found = ffi.new("VkCooperativeMatrixPropertiesKHR[]", count[0])
    for properties in found:
        properties.sType = vk.VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR
    check(function(physical, count, found), name)
    half, single = vk.VK_COMPONENT_TYPE_FLOAT16_KHR, vk.VK_COMPONENT_TYPE_FLOAT32_KHR
    return [
        MatrixShape(matrix.MSize, matrix.NSize, matrix.KSize)
        for matrix in found
        if (matrix.AType, matrix.BType, matrix.CType, matrix.ResultType) == (half, half, single, single)
        and matrix.scope == vk.VK_SCOPE_SUBGROUP_KHR
        and not matrix.saturatingAccumulation
    ]
