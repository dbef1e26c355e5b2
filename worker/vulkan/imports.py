"""Has a device see the host's memory: mapped pages, or a dma-buf of the file behind them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import PAGE_BYTES, Backing
from tplaunch.worker.device import DeviceError
from tplaunch.worker.dma_buf import DmaBufError, dma_buf_of
from tplaunch.worker.vulkan.api import Handle, check, create, ffi, lib, struct, vk
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.memory import allocate_memory, bind, buffer_info
from tplaunch.worker.vulkan.memory_types import import_order
from tplaunch.worker.vulkan.staging import Block

Bytes = npt.NDArray[np.uint8]


def import_pages(context: Context, memory: Bytes) -> tuple[Block, int]:
    """Imports the whole pages around some of the host's memory, which belong to its mapping.

    Returns them with the offset of that memory. Raises DeviceError where the driver refuses.
    """
    alignment = context.info.import_alignment
    if not alignment:
        raise DeviceError("the driver can't import host memory")
    start, nbytes, distance = _whole(context, memory.ctypes.data, memory.nbytes, alignment)
    return import_host_memory(context, start, nbytes), distance


def import_file(context: Context, memory: Bytes, backing: Backing | None) -> tuple[Block, int]:
    """The same by a dma-buf of the pages of the file that the memory is mapped from."""
    if not context.info.dma_buf_import:
        raise DeviceError("the driver can't import a dma-buf")
    if backing is None:
        raise DeviceError("the memory is this process's alone: there is nothing to make a dma-buf of")
    start, nbytes, distance = _whole(context, backing.offset(memory), memory.nbytes, PAGE_BYTES)
    try:
        descriptor = dma_buf_of(backing.descriptor, start, nbytes)
    except DmaBufError as error:
        raise DeviceError(str(error)) from error
    return import_dma_buf(context, descriptor, nbytes), distance


def _whole(context: Context, start: int, nbytes: int, alignment: int) -> tuple[int, int, int]:
    """Returns where the pages begin, their bytes, and how far behind their beginning `start` is."""
    first = start // alignment * alignment
    size = -(-(start - first + nbytes) // alignment) * alignment
    check_size(context, size, "import")
    return first, size, start - first


def check_size(context: Context, nbytes: int, what: str) -> None:
    """Raises DeviceError for more than a device allocates at once. what: is to be done with the memory."""
    limit = context.info.max_allocation
    if nbytes > limit:
        raise DeviceError(f"the arena has {nbytes} bytes, the largest {what} {limit}")


def import_host_memory(context: Context, pointer: int, nbytes: int) -> Block:
    """VK_EXT_external_memory_host. Raises DeviceError where the driver refuses."""
    kind = vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT
    host_pointer = ffi.cast("void *", pointer)
    allowed = struct("VkMemoryHostPointerPropertiesEXT")
    query = context.function("vkGetMemoryHostPointerPropertiesEXT")
    check(query(context.device, kind, host_pointer, allowed), "vkGetMemoryHostPointerPropertiesEXT")
    source = struct("VkImportMemoryHostPointerInfoEXT", handleType=kind, pHostPointer=host_pointer)
    return bound(context, *_taken(context, nbytes, kind, allowed.memoryTypeBits, source), nbytes)


def import_dma_buf(context: Context, descriptor: int, nbytes: int) -> Block:
    """VK_EXT_external_memory_dma_buf. The descriptor is the driver's from now on, or closed.

    Raises DeviceError where the driver refuses.
    """
    kind = vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT
    allowed = struct("VkMemoryFdPropertiesKHR")
    query = context.function("vkGetMemoryFdPropertiesKHR")
    try:
        check(query(context.device, kind, descriptor, allowed), "vkGetMemoryFdPropertiesKHR")
        source = struct("VkImportMemoryFdInfoKHR", handleType=kind, fd=descriptor)
        taken = _taken(context, nbytes, kind, allowed.memoryTypeBits, source)
    except DeviceError:
        os.close(descriptor)
        raise
    return bound(context, *taken, nbytes)


def _taken(context: Context, nbytes: int, kind: int, type_bits: int, source: Handle) -> tuple[Handle, Handle]:
    """Returns a buffer and the memory from elsewhere that it is for.

    type_bits: a bit for each memory type that may stand for it. Where it raises DeviceError, the driver has
    taken nothing.
    """
    external = struct("VkExternalMemoryBufferCreateInfo", handleTypes=kind)
    buffer = create("vkCreateBuffer", "VkBuffer", context.device, buffer_info(nbytes, external))
    try:
        requirements = ffi.new("VkMemoryRequirements *")
        lib.vkGetBufferMemoryRequirements(context.device, buffer, requirements)
        type_bits &= requirements.memoryTypeBits
        if not type_bits or requirements.size > nbytes:
            raise DeviceError("no memory type fits the host's memory")
        order = import_order(context.memory_types(), type_bits)
        return buffer, allocated(context, nbytes, order, source)
    except DeviceError:
        lib.vkDestroyBuffer(context.device, buffer, ffi.NULL)
        raise


def bound(context: Context, buffer: Handle, memory: Handle, nbytes: int) -> Block:
    """Puts a buffer into memory that other processes see, too. Raises DeviceError, and both are gone."""
    try:
        return bind(context, buffer, memory, nbytes, host_visible=False)
    except DeviceError:
        lib.vkDestroyBuffer(context.device, buffer, ffi.NULL)
        lib.vkFreeMemory(context.device, memory, ffi.NULL)
        raise


def allocated(context: Context, nbytes: int, order: Sequence[int], source: Handle) -> Handle:
    """Allocates by the first type that the driver takes. Raises DeviceError, the first, where it takes none.

    source: tells that the memory is imported or exported.
    """
    refusals = []
    for type_index in order:
        try:
            return allocate_memory(context, nbytes, type_index, source)
        except DeviceError as error:
            refusals.append(error)
    raise refusals[0]
