"""`tplaunch tune` on one device: measures anew what models may choose, and keeps it."""

from __future__ import annotations

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.device import DeviceId
from tplaunch.worker.jobs.messages import Measurement, Tuning, TuningJob


def tune_device(job: TuningJob, device_id: DeviceId) -> Tuning:
    """Measures everything that the job names. Raises DeviceError."""
    from tplaunch.worker.vulkan.device import VulkanDevice
    from tplaunch.worker.vulkan.measuring.tuning import chosen

    limits = Limits(context_length=1, num_blocks=1, kv_type=job.kv_type, activations=job.activations)
    device = VulkanDevice(device_id, job.options, limits)
    try:
        device.prove([job.program()], seconds=float("inf"))
        measurements = device.tune(job.program(), seconds=float("inf"), anew=True)
    finally:
        device.close()
    return Tuning(
        device.name,
        device.info.driver,
        str(measurements.path) if measurements.is_kept else None,
        tuple(
            Measurement(name, dict(seconds), chosen(name, seconds, device.info.features))
            for name, seconds in sorted(measurements.new.items())
        ),
    )
