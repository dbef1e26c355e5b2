"""Which device a worker opens, and how. Made by the launcher, given on the worker's command line."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.plan import Limits
from worker.device import Device


@dataclass(frozen=True)
class DeviceOptions:
    """index is the device's place in the driver's list, None for NumPy on the CPU."""

    index: int | None
    uuid: str = ""  # hex; another device at this index is refused
    validate: bool = False  # with the Khronos validation layer
    staging: bool = False  # copy partial sums even where the device could import the host's memory
    submit_ahead: bool = True


def open_device(options: DeviceOptions, limits: Limits, timeout_seconds: float) -> Device:
    """The device, opened. Each kind is imported only when it is used: NumPy needs no Vulkan loader."""
    if options.index is None:
        from worker.numpy_device import NumpyDevice

        return NumpyDevice(limits)
    from worker.vulkan.device import VulkanDevice

    return VulkanDevice(options, limits, timeout_seconds)
