"""An opened Vulkan device: its queue, its memory types, and a way to run a few commands and wait for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan import execution_modes, faults, matrices, subgroups
from tplaunch.worker.vulkan.api import (
    Handle,
    array,
    call,
    chained,
    check,
    create,
    ffi,
    lib,
    strings,
    struct,
    vk,
)
from tplaunch.worker.vulkan.external_memory import DMA_BUF_EXTENSIONS, IMPORT_EXTENSION
from tplaunch.worker.vulkan.instance import Instance
from tplaunch.worker.vulkan.listing import VERSION_1_3, describe
from tplaunch.worker.vulkan.memory_types import MemoryType
from tplaunch.worker.vulkan.queues import best_family, queue_families

SETUP_TIMEOUT_NANOSECONDS = 60 * 10**9  # of copies while loading


class Context:
    """A VkDevice and what all on it needs. Raises DeviceError for a device that can't be used.

    It is described, and opened, as if it had none of the features `without`. One that `only_compiles` may be
    of a card that is not there.
    """

    def __init__(
        self,
        index: int,
        uuid: str = "",
        validate: bool = False,
        without: frozenset[str] = frozenset(),
        only_compiles: bool = False,
    ) -> None:
        self._only_compiles = only_compiles
        self.instance = Instance(validate)
        self.device: Handle = None
        self.command_pool: Handle = ffi.NULL
        try:
            self._open(index, uuid, without)
        except BaseException:
            self.close()
            raise

    def _open(self, index: int, uuid: str, without: frozenset[str]) -> None:
        handles = self.instance.physical_devices()
        if not 0 <= index < len(handles):
            raise DeviceError(f"there is no Vulkan device {index}; there are {len(handles)}")
        self.physical = handles[index]
        lacking: dict[str, Any] = dict.fromkeys(without - {"host_memory_import"}, False)
        if "host_memory_import" in without:
            lacking["import_alignment"] = 0
        self.info = replace(describe(index, self.physical), **lacking)
        if uuid and uuid != self.info.uuid:
            raise DeviceError(
                f"Vulkan device {index} is now {self.info.name}, UUID {self.info.uuid}; {uuid} was chosen"
            )
        if self.info.unusable and not (self._only_compiles and self.info.is_made_up):
            raise DeviceError(f"Vulkan device {index} ({self.info.name}) can't be used: {self.info.unusable}")
        self.matrices = matrices.matrix_shape(self.instance, self.physical, self.info)
        family = best_family(queue_families(self.physical), self.info.compute_queue)
        assert family is not None, "a device is usable only with a queue"
        self.queue_family = family
        self.modes = execution_modes.execution_modes(self.physical)
        self._tells_faults = faults.tells_faults(self.physical)
        self._create_device()
        self._memory = ffi.new("VkPhysicalDeviceMemoryProperties *")
        lib.vkGetPhysicalDeviceMemoryProperties(self.physical, self._memory)

    def _create_device(self) -> None:
        queues = struct(
            "VkDeviceQueueCreateInfo",
            queueFamilyIndex=self.queue_family.index,
            queueCount=1,
            pQueuePriorities=ffi.new("float[]", [1.0]),
        )
        features = struct("VkPhysicalDeviceVulkan12Features", timelineSemaphore=1, bufferDeviceAddress=1)
        newer = self._newer_features()
        if self.matrices:
            for name in matrices.FEATURES:
                setattr(features, name, 1)
        features.pNext = chained(newer)
        core_features = struct("VkPhysicalDeviceFeatures", shaderInt64=self.info.int64)
        extensions = [IMPORT_EXTENSION] if self.info.host_memory_import else []
        extensions += DMA_BUF_EXTENSIONS if self.info.dma_buf_import or self.info.dma_buf_export else ()
        extensions += [matrices.EXTENSION] if self.matrices else []
        extensions += execution_modes.needed_extensions(self.modes)
        extensions += [faults.EXTENSION] if self._tells_faults else []
        extensions += [subgroups.EXTENSION] if self._asks_for_subgroups and not self._is_1_3 else []
        info = struct(
            "VkDeviceCreateInfo",
            pNext=features,
            queueCreateInfoCount=1,
            pQueueCreateInfos=queues,
            enabledExtensionCount=len(extensions),
            ppEnabledExtensionNames=strings(extensions),
            pEnabledFeatures=core_features,
        )
        self.device = create("vkCreateDevice", "VkDevice", self.physical, info)
        queue = ffi.new("VkQueue *")
        lib.vkGetDeviceQueue(self.device, self.queue_family.index, 0, queue)
        self.queue = queue[0]
        self.command_pool = create(
            "vkCreateCommandPool",
            "VkCommandPool",
            self.device,
            struct("VkCommandPoolCreateInfo", queueFamilyIndex=self.queue_family.index),
        )

    def _newer_features(self) -> list[Handle]:
        """Returns the features that only some devices have, for quicker products."""
        features = []
        sizes = self.info.sizes
        control = {"subgroupSizeControl": sizes.required > 0, "computeFullSubgroups": sizes.full}
        if self._is_1_3:
            dots = self.info.integer_dot_product
            features.append(
                struct("VkPhysicalDeviceVulkan13Features", shaderIntegerDotProduct=dots, **control)
            )
        elif self._asks_for_subgroups:
            features.append(struct("VkPhysicalDeviceSubgroupSizeControlFeatures", **control))
        if self.matrices:
            features.append(struct("VkPhysicalDeviceCooperativeMatrixFeaturesKHR", cooperativeMatrix=1))
        if execution_modes.needed_extensions(self.modes):
            features.append(execution_modes.uniform_control_flow(True))
        if self._tells_faults:
            features.append(faults.enabled_fault())
        return features

    @property
    def _is_1_3(self) -> bool:
        return self.info.api_version >= VERSION_1_3

    @property
    def _asks_for_subgroups(self) -> bool:
        return self.info.sizes.required > 0 or self.info.sizes.full

    def memory_types(self) -> list[MemoryType]:
        """Every memory type, the driver's favourites first."""
        memory = self._memory
        types = [memory.memoryTypes[i] for i in range(memory.memoryTypeCount)]
        return [
            MemoryType(one.propertyFlags, one.heapIndex, memory.memoryHeaps[one.heapIndex].size)
            for one in types
        ]

    def available_bytes(self) -> int:
        """Bytes of its own memory that the driver grants this process now, with those that it has."""
        return describe(self.info.index, self.physical).available_bytes

    def check(self, status: int, name: str) -> None:
        """Raises DeviceError unless the call `name` succeeded; a device that is lost tells what it knows of
        that."""
        if status == vk.VK_ERROR_DEVICE_LOST:
            query = self.function("vkGetDeviceFaultInfoEXT") if self._tells_faults else None
            raise DeviceError(faults.lost_device(self.info.name, name, self.device, query))
        check(status, name)

    def function(self, name: str) -> Handle:
        """A function of an enabled extension."""
        return ffi.cast(f"PFN_{name}", lib.vkGetDeviceProcAddr(self.device, name.encode()))

    def command_buffers(self, count: int) -> Handle:
        """A C array of new command buffers; they live as long as the context, or until they are freed."""
        info = struct("VkCommandBufferAllocateInfo", commandPool=self.command_pool, commandBufferCount=count)
        buffers = ffi.new("VkCommandBuffer[]", count)
        call("vkAllocateCommandBuffers", self.device, info, buffers)
        return buffers

    def free_commands(self, buffers: Handle) -> None:
        """Frees a C array of command buffers that the device has done with."""
        lib.vkFreeCommandBuffers(self.device, self.command_pool, len(buffers), buffers)

    def run_once(self, record: Callable[[Handle], None]) -> None:
        """Runs the commands that `record` puts into a command buffer and waits for their end."""
        commands = self.command_buffers(1)
        begin = struct("VkCommandBufferBeginInfo", flags=vk.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT)
        call("vkBeginCommandBuffer", commands[0], begin)
        record(commands[0])
        call("vkEndCommandBuffer", commands[0])
        fence = create("vkCreateFence", "VkFence", self.device, struct("VkFenceCreateInfo"))
        try:
            submit = struct("VkSubmitInfo", commandBufferCount=1, pCommandBuffers=commands)
            self.check(lib.vkQueueSubmit(self.queue, 1, submit, fence), "vkQueueSubmit")
            fences = array("VkFence", [fence])
            status = lib.vkWaitForFences(self.device, 1, fences, 1, SETUP_TIMEOUT_NANOSECONDS)
            self.check(status, "vkWaitForFences")
        finally:
            lib.vkDestroyFence(self.device, fence, ffi.NULL)
        self.free_commands(commands)

    def close(self) -> None:
        """Idempotent; all that was made on the device is gone before."""
        if self.device is not None:
            lib.vkDestroyCommandPool(self.device, self.command_pool, ffi.NULL)
            lib.vkDestroyDevice(self.device, ffi.NULL)
            self.device = None
        self.instance.close()
