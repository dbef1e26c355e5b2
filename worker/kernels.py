"""Has a device check and time the kernels of a run, before it loads the weights."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.coordinator.split.limits import AUTO, Limits
from tplaunch.worker.device import ByMatrices, Device, MatrixDevice, SelfCheckingDevice, TunableDevice
from tplaunch.worker.run_programs import RunPrograms


def prove(device: Device, programs: RunPrograms) -> Sequence[str]:
    """Has the device check every kernel that steps of any size will run; what the user should know."""
    if not isinstance(device, SelfCheckingDevice):
        return ()
    return device.prove(programs.all_kinds())


def tune(device: Device, programs: RunPrograms, limits: Limits) -> tuple[ByMatrices, Sequence[str]]:
    """Has the device choose its fastest kernels; tells what of prompts' rows is for matrices of float16.

    Also returns what the user should know.
    """
    if isinstance(device, TunableDevice):
        device.tune(programs.build(1, 1))
    if limits.activations not in (AUTO, "f16"):
        return ByMatrices(), ()
    if not isinstance(device, MatrixDevice):
        is_wanted = limits.activations == "f16"
        return ByMatrices(is_wanted, is_wanted), ()
    return device.prefers_matrices([programs.build(limits.max_rows, 1, of_prompts=True, by_matrices=True)])
