"""Allocates memory of a device that other devices and all hosts see: VK_EXT_external_memory_dma_buf."""

from __future__ import annotations

from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan.api import Handle, check, create, ffi, lib, struct, vk
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.imports import allocated, bound, check_size
from tplaunch.worker.vulkan.memory import buffer_info, free
from tplaunch.worker.vulkan.memory_types import export_order
from tplaunch.worker.vulkan.staging import Block


def export_block(context: Context, nbytes: int) -> tuple[Block, int]:
    """Returns memory, with what anyone had in it, and a descriptor of a dma-buf of it, the caller's to close.

    Raises DeviceError where the driver exports none that hosts can write and read.
    """
    if not context.info.dma_buf_export:
        raise DeviceError("the driver can't export memory that hosts may map")
    check_size(context, nbytes, "export")
    block = _exportable(context, nbytes)
    try:
        return block, _descriptor(context, block)
    except DeviceError:
        free(context, block)
        raise


def _exportable(context: Context, nbytes: int) -> Block:
    kind = handle_type()
    external = struct("VkExternalMemoryBufferCreateInfo", handleTypes=kind)
    buffer = create("vkCreateBuffer", "VkBuffer", context.device, buffer_info(nbytes, external))
    try:
        requirements = ffi.new("VkMemoryRequirements *")
        lib.vkGetBufferMemoryRequirements(context.device, buffer, requirements)
        order = export_order(context.memory_types(), requirements.memoryTypeBits)
        if not order:
            raise DeviceError("the driver has no memory for an export that hosts see as devices do")
        target = struct("VkExportMemoryAllocateInfo", handleTypes=kind)
        memory = allocated(context, requirements.size, order, target)
    except DeviceError:
        lib.vkDestroyBuffer(context.device, buffer, ffi.NULL)
        raise
    return bound(context, buffer, memory, nbytes)


def _descriptor(context: Context, block: Block) -> int:
    wanted: Handle = struct("VkMemoryGetFdInfoKHR", memory=block.memory, handleType=handle_type())
    descriptor = ffi.new("int *")
    check(context.function("vkGetMemoryFdKHR")(context.device, wanted, descriptor), "vkGetMemoryFdKHR")
    return int(descriptor[0])


def handle_type() -> int:
    """Returns the kind of memory handle that is exported."""
    return int(vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT)
