"""Opens the kind of device that is asked for."""

from __future__ import annotations

from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.device import Device, DeviceId


def open_device(device: DeviceId, options: RankOptions, limits: Limits) -> Device:
    """The device, opened. Each kind is imported only when it is used: NumPy needs no Vulkan loader."""
    if device.index is None:
        from tplaunch.worker.numpy.device import NumpyDevice
        from tplaunch.worker.numpy.timed_device import TimedNumpyDevice

        return TimedNumpyDevice(limits) if options.timestamps else NumpyDevice(limits)
    from tplaunch.worker.vulkan.device import VulkanDevice

    return VulkanDevice(device, options, limits)
