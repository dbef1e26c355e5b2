"""Refuses activations that a device can't multiply by."""

from __future__ import annotations

from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan.context import Context


def check_activations(context: Context, activations: str) -> None:
    """Raises DeviceError, and closes the context, where the device lacks what such activations need."""
    missing = None
    if activations == "q8" and not context.info.integer_dot_product:
        missing = "integer dot product"
    if activations == "f16" and context.matrices is None:
        missing = "cooperative matrices of float16 that kernels multiply"
    if missing is not None:
        context.close()
        raise DeviceError(f"{context.info.name} has no {missing}; use --activations f32")
