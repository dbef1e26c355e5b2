"""Asks a driver how much memory of its own a device has, and how much of that is free."""

from __future__ import annotations

from tplaunch.worker.vulkan.api import Handle, chained, lib, struct, vk


def largest_local_heap(handle: Handle, has_budget: bool) -> tuple[int, int]:
    """Bytes of the largest heap of the device's own memory, and those that a process may expect to get."""
    budget = struct("VkPhysicalDeviceMemoryBudgetPropertiesEXT")
    head = struct("VkPhysicalDeviceMemoryProperties2", pNext=chained([budget] * has_budget))
    lib.vkGetPhysicalDeviceMemoryProperties2(handle, head)
    heaps = head.memoryProperties.memoryHeaps
    return max(
        (
            (heaps[i].size, min(heaps[i].size, budget.heapBudget[i] or heaps[i].size))
            for i in range(head.memoryProperties.memoryHeapCount)
            if heaps[i].flags & vk.VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
        ),
        default=(0, 0),
    )
