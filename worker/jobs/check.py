"""`tplaunch check` on one device: runs every kernel against NumPy, one after another, and tells of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.checking.everything import every_op
from tplaunch.worker.checking.table import SmallOp
from tplaunch.worker.device import DeviceError, DeviceId, KernelRefused
from tplaunch.worker.jobs.messages import CheckBegun, CheckEnded, CheckFailed, CheckJob, CheckList

if TYPE_CHECKING:  # NumPy ranks need no Vulkan loader
    from tplaunch.worker.vulkan.checking.checker import Checker
    from tplaunch.worker.vulkan.variants import Variant

LIMITS = Limits(context_length=1, num_blocks=1)
NUM_AHEAD = 32  # checks whose kernels are compiled together, by threads


def check_kernels(job: CheckJob, device_id: DeviceId, say: Callable[[Any], None]) -> None:
    """Runs the checks from job.start on, and says a message of each step. Raises DeviceError."""
    if device_id.index is None:
        _check_processors(job, device_id, say)
        return
    from tplaunch.worker.vulkan.device import VulkanDevice

    device = VulkanDevice(device_id, job.options, LIMITS)
    try:
        checker = device.checker()
        ops = every_op(device.info.features, checker.has_matrices)
        runs = [(op, variant) for op in ops for variant in checker.variants(checker.ask(op))]
        say(CheckList(device.name, device.info.driver, len(runs)))
        wanted = runs[job.start :]
        num_together = NUM_AHEAD if job.compiles_ahead else 1
        for first in range(0, len(wanted), num_together):
            together = wanted[first : first + num_together]
            if job.compiles_ahead:
                checker.compile(checker.ask(op).kernel_of(variant) for op, variant in together)
            if not _check(checker, together, say):
                break
        checker.close()
    finally:
        device.close()


def _check_processors(job: CheckJob, device_id: DeviceId, say: Callable[[Any], None]) -> None:
    """Does the same for processors, whose kernels have no variants."""
    from tplaunch.worker.cpu.checking import CpuChecker

    threads = job.options.cpu_threads or device_id.num_threads
    checker = CpuChecker(threads, job.options.timeout_seconds)
    runs = list(checker.kernels_of(every_op(frozenset(), False)))
    say(CheckList(checker.device, checker.compiler, len(runs)))
    for op, kernel in runs[job.start :]:
        say(CheckBegun(kernel, kernel, "", _words(op)))
        error, bound = checker.error(op)
        say(CheckEnded(error if math.isfinite(error) else None, bound, ""))


def _words(op: SmallOp) -> str:
    return f"{op.op}, {op.num_rows} rows, cache {op.kv_type}"


def _check(checker: Checker, runs: Sequence[tuple[SmallOp, Variant]], say: Callable[[Any], None]) -> bool:
    """Until one fails, which gives False: what comes after it is no longer sure."""
    for op, variant in runs:
        asked = checker.ask(op)
        kernel, family = asked.kernel_of(variant), asked.family or asked.kernel
        say(CheckBegun(kernel, family, variant.suffix, _words(op)))
        error, refusal = math.nan, ""
        try:
            error = checker.error(op, variant, kernel)
        except KernelRefused as refused:  # which harms no other kernel
            refusal = f"the driver refuses to compile it: {refused}"
        except DeviceError as failure:
            say(CheckFailed(str(failure)))
            return False
        say(CheckEnded(error if math.isfinite(error) else None, checker.bound(op), refusal))
    return True
