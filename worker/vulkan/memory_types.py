"""Chooses among a device's memory types: all that suit a placement, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tplaunch.worker.buffers.table import Placement
from tplaunch.worker.vulkan.api import vk


class MemoryType(NamedTuple):
    """A memory type as the driver lists it."""

    flags: int  # VkMemoryPropertyFlags
    heap: int
    heap_bytes: int


def memory_type_order(
    types: Mapping[int, MemoryType], placement: Placement, unmapped: bool = False
) -> list[tuple[int, bool]]:
    """Returns types by index with whether the host maps them, the best first; none where none suits.

    types: those that a buffer may lie in, in the driver's order, which puts the faster ones first. What
    kernels read most lies in the device's own memory and never in the host's, where a model would run at the
    speed of the bus; first in its largest heap, since the part that the host can see is small without
    resizable BAR. unmapped: the host maps nothing of it.
    """
    local, cached = vk.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, vk.VK_MEMORY_PROPERTY_HOST_CACHED_BIT
    mappable = vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT

    def has(index: int, flags: int) -> bool:
        return types[index].flags & flags == flags

    if placement in (Placement.WEIGHTS, Placement.DEVICE):
        own = [index for index in types if has(index, local)]
        most = max((types[index].heap_bytes for index in own), default=0)
        own.sort(key=lambda index: (types[index].heap_bytes < most, not has(index, mappable)))
        # Without memory of its own a device says so of none, and kernels run on the host's.
        return [(index, has(index, mappable) and not unmapped) for index in own or types]
    preferred = local if placement is Placement.UPLOAD else cached
    seen = [index for index in types if has(index, mappable)]
    return [(index, True) for index in sorted(seen, key=lambda index: not has(index, preferred))]


def import_order(types: Sequence[MemoryType], allowed: int) -> list[int]:
    """Returns the types by which the host's memory may be imported, by index, the best first.

    allowed: a bit for each. What is coherent needs no word of its own to be seen by the host, and what is
    cached is read at the speed of memory; the driver's own order decides among equals.
    """
    coherent, cached = vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT, vk.VK_MEMORY_PROPERTY_HOST_CACHED_BIT
    found = [index for index in range(len(types)) if allowed >> index & 1]
    return sorted(
        found, key=lambda index: (not types[index].flags & coherent, not types[index].flags & cached)
    )


def export_order(types: Sequence[MemoryType], allowed: int) -> list[int]:
    """Returns the types by which memory may be exported that hosts write and read, by index, the best first.

    allowed: a bit for each. What is coherent alone, and not the device's own where it has any: all other
    devices would read it there, and the hosts slowly. What is cached goes first.
    """
    visible = vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
    local, cached = vk.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, vk.VK_MEMORY_PROPERTY_HOST_CACHED_BIT
    unwanted = local if any(not kind.flags & local for kind in types) else 0
    found = [
        index
        for index, kind in enumerate(types)
        if allowed >> index & 1 and kind.flags & (visible | unwanted) == visible
    ]
    return sorted(found, key=lambda index: not types[index].flags & cached)
