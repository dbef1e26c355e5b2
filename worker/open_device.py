"""Opens the kind of device that is asked for."""

from __future__ import annotations

from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.device import Device, DeviceId


def open_device(device: DeviceId, options: RankOptions, limits: Limits) -> Device:
    """Returns the device, opened. Each kind is imported only when it is used: NumPy needs no loader."""
    if device.index is None:
        if device.num_threads:
            from tplaunch.worker.cpu.opening import open_cpu

            return open_cpu(limits, options, device.num_threads)
        from tplaunch.worker.numpy.timed_device import open_numpy

        return open_numpy(limits, options.timestamps)
    from tplaunch.worker.vulkan.device import VulkanDevice

    return VulkanDevice(device, options, limits)
