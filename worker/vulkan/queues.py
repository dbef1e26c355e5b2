"""Chooses the family of the queue that a device computes in: one that draws nothing, where there is one.

What a desktop draws would else wait behind a step, and a step behind frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.worker.vulkan.api import Handle, ffi, lib, vk


@dataclass(frozen=True)
class QueueFamily:
    """One of a device's families of queues, by its place in the driver's list."""

    index: int
    computes: bool
    draws: bool
    timestamp_bits: int  # 0 where its queues have no clock

    @property
    def only_computes(self) -> bool:
        """Tells if nothing is drawn there."""
        return self.computes and not self.draws


def queue_families(physical: Handle) -> list[QueueFamily]:
    """Lists a device's families in the driver's order."""
    count = ffi.new("uint32_t *")
    lib.vkGetPhysicalDeviceQueueFamilyProperties(physical, count, ffi.NULL)
    families = ffi.new("VkQueueFamilyProperties[]", count[0])
    lib.vkGetPhysicalDeviceQueueFamilyProperties(physical, count, families)
    return [
        QueueFamily(
            index,
            computes=bool(family.queueFlags & vk.VK_QUEUE_COMPUTE_BIT),
            draws=bool(family.queueFlags & vk.VK_QUEUE_GRAPHICS_BIT),
            timestamp_bits=family.timestampValidBits,
        )
        for index, family in enumerate(families)
    ]


def best_family(families: Sequence[QueueFamily], may_only_compute: bool = True) -> QueueFamily | None:
    """Returns the family to compute in; None where none computes.

    One with a clock comes first, as measurements need it; then one that draws nothing, or one that draws
    where the user does without (`--without compute_queue`); then the driver's order.
    """
    computing = [family for family in families if family.computes]
    return min(
        computing,
        key=lambda family: (not family.timestamp_bits, family.draws == may_only_compute, family.index),
        default=None,
    )
