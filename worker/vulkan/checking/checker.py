"""Runs one check after another on an opened device: how far a kernel is from NumPy."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

from tplaunch.worker.checking.case import Arrays
from tplaunch.worker.checking.check import Check
from tplaunch.worker.checking.table import SmallOp
from tplaunch.worker.device import CHECK_HELP, CHECKING, DeviceError, KernelRefused
from tplaunch.worker.vulkan.checking.case_device import CaseDevice
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.questions import Asked, ask
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.timeline import Timeline
from tplaunch.worker.vulkan.variants import Always, Variant, candidates

TIMEOUT_SECONDS = 60.0  # of one run: a driver may take most of that to compile a kernel
NO_CHOICE = (Variant(""),)

log = logging.getLogger("worker")


@dataclass(frozen=True)
class Expected:
    """A check with NumPy's results."""

    check: Check
    results: Arrays


class Checker:
    """Checks kernels of one device, with its own compiled ones."""

    def __init__(self, context: Context, pipelines: Pipelines) -> None:
        self._context, self._pipelines = context, pipelines
        self._timeline: Timeline | None = None
        self._kernel = ""  # that the log names
        self._last: tuple[SmallOp, Expected] | None = None

    @property
    def on_cpu(self) -> bool:
        """Tells if the device is the host's own processor."""
        return self._context.info.type == "cpu"

    def compile(self, kernels: Iterable[str], seconds: float = math.inf) -> None:
        """Compiles these ahead of their checks, several at a time; begins no other one after so long."""
        self._pipelines.make(kernels, seconds)

    @property
    def has_matrices(self) -> bool:
        """Tells if the device multiplies cooperative matrices."""
        return self._context.matrices is not None

    def ask(self, op: SmallOp) -> Asked:
        """Asks for the kernel that runs an op here."""
        info = self._context.info
        sizes = info.sizes.widest, info.max_invocations
        return ask(op.op, op.limits, info.features, *sizes, info.team_lanes)

    def variants(self, asked: Asked) -> tuple[Variant, ...]:
        """Returns the variants among which the device may choose."""
        if asked.family is None:
            return NO_CHOICE
        return candidates(asked.family, self._context.info.features)

    def error(self, op: SmallOp, variant: Variant, kernel: str) -> float:
        """Measures an op's error against NumPy. Raises KernelRefused, or DeviceError."""
        expected = self._expected(op)
        if kernel != self._kernel:
            self._kernel = kernel
            log.info("%s %s on %s", CHECKING, kernel, self._context.info.name)
        if self._timeline is None:
            self._timeline = Timeline(self._context, True, TIMEOUT_SECONDS)
        limits = expected.check.case.limits
        device = CaseDevice(self._context, self._pipelines, self._timeline, limits, Always(variant))
        try:
            results = expected.check.run(device)
        except KernelRefused as refusal:
            log.warning("%s is refused by the driver: %s", kernel, refusal)
            raise
        except DeviceError as error:
            raise DeviceError(f"{self.blame(kernel)} fails: {error}; {CHECK_HELP}") from error
        finally:
            device.close()
        return expected.check.error(results, expected.results)

    def bound(self, op: SmallOp) -> float:
        """The largest error that a right kernel may have."""
        return self._expected(op).check.bound

    def blame(self, kernel: str) -> str:
        """A kernel on this device with its driver."""
        info = self._context.info
        return f"the kernel {kernel} on {info.name} (driver {info.driver})"

    def _expected(self, op: SmallOp) -> Expected:
        """Variants are checked one after another: the last one is kept."""
        if self._last is None or self._last[0] != op:
            check = op.check()
            self._last = op, Expected(check, check.expected())
        return self._last[1]

    def close(self) -> None:
        """Closes the timeline; one whose work has not ended by then is left alone."""
        if self._timeline is not None and self._timeline.drain():
            self._timeline.close()
        self._timeline = None
