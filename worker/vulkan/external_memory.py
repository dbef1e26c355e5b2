"""Asks a driver whether its buffers may lie in memory from elsewhere, or in memory that it hands out."""

from __future__ import annotations

from tplaunch.worker.vulkan.api import Handle, lib, struct, vk

IMPORT_EXTENSION = "VK_EXT_external_memory_host"
DMA_BUF_EXTENSIONS = ("VK_KHR_external_memory_fd", "VK_EXT_external_memory_dma_buf")
DEVICE_ADDRESS_USAGE = 0x20000  # VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT; the package lacks core's name


def buffer_usage() -> int:
    """The flags of every buffer: for all that kernels, copies and indirect dispatches do with one."""
    return int(
        vk.VK_BUFFER_USAGE_STORAGE_BUFFER_BIT
        | vk.VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT
        | vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT
        | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
        | DEVICE_ADDRESS_USAGE
    )


def imports_host_memory(handle: Handle) -> bool:
    """Returns true if the driver says that a buffer in an allocation may lie in the host's memory.

    Only for devices with IMPORT_EXTENSION: SwiftShader has that and yet says no.
    """
    return _imports(handle, vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT)


def imports_dma_bufs(handle: Handle) -> bool:
    """Tells the same of a dma-buf. Only for devices with DMA_BUF_EXTENSIONS."""
    return _imports(handle, vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT)


def exports_dma_bufs(handle: Handle) -> bool:
    """Returns true if the driver says that it makes a dma-buf of a buffer's memory. Only for the same."""
    exportable = vk.VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT
    return _has(handle, vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT, exportable)


def _imports(handle: Handle, kind: int) -> bool:
    return _has(handle, kind, vk.VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT)


def _has(handle: Handle, kind: int, feature: int) -> bool:
    info = struct("VkPhysicalDeviceExternalBufferInfo", usage=buffer_usage(), handleType=kind)
    answer = struct("VkExternalBufferProperties")
    lib.vkGetPhysicalDeviceExternalBufferProperties(handle, info, answer)
    properties = answer.externalMemoryProperties
    dedicated = vk.VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT
    can = properties.externalMemoryFeatures & (feature | dedicated) == feature
    return can and bool(properties.compatibleHandleTypes & kind)
