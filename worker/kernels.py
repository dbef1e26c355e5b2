"""Has a device check, time or compile the kernels of a run, before it loads the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tplaunch.coordinator.split.limits import AUTO, Limits
from tplaunch.worker.device import (
    CompilingDevice,
    Device,
    Rounding,
    RoundingDevice,
    SelfCheckingDevice,
    TunableDevice,
)
from tplaunch.worker.run_programs import RunPrograms


def prove(device: Device, programs: RunPrograms) -> Sequence[str]:
    """Has the device check every kernel that steps of any size will run; what the user should know."""
    if not isinstance(device, SelfCheckingDevice):
        return ()
    return device.prove(programs.all_kinds())


def tune(device: Device, programs: RunPrograms, limits: Limits) -> tuple[Rounding, Sequence[str]]:
    """Has the device choose its fastest kernels; tells what of rows of prompts it prefers rounded.

    They are rounded to float16, for matrices of it, or to q8 where that is wanted. Also returns what the
    user should know.
    """
    if isinstance(device, TunableDevice):
        device.tune(programs.build(1, 1))
    kind = "f16" if limits.activations == AUTO else limits.activations
    if kind == "f32":
        return Rounding(), ()
    if not isinstance(device, RoundingDevice) or not device.tells_prompts_apart:
        return Rounding(attention=limits.activations == "f16"), ()
    rounded = programs.build(limits.max_rows, 1, of_prompts=True, as_floats=(), activations=kind)
    return device.prefers_rounded([rounded])


def compile_kernels(device: Device, programs: RunPrograms, tell: Callable[[str], None]) -> Sequence[str]:
    """Has the device compile every kernel that steps of any size will run; what the user should know."""
    if not isinstance(device, CompilingDevice):
        return ()
    return device.compile_kernels(programs.all_kinds(), tell)
