"""A Vulkan device for many small cases: its kernels stay compiled, its buffers go after each case."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from tests.vulkan.cases import Case
from tplaunch.coordinator.options import RankOptions
from tplaunch.worker.vulkan.checking.case_device import CaseDevice
from tplaunch.worker.vulkan.checking.checker import Checker
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.timeline import Timeline
from tplaunch.worker.vulkan.variants import Always, Selection, Variant

TIMEOUT_SECONDS = 60


class ReusedDevice:
    """Runs a case as a device opened for it would."""

    def __init__(self, options: RankOptions) -> None:
        self._context = Context(0, "", options.validate, frozenset(options.without))
        self._pipelines = Pipelines(self._context)
        self._timeline = Timeline(self._context, True, TIMEOUT_SECONDS)
        self.info = self._context.info
        self.is_plain = bool(options.without)  # another device has the kernels that need nothing, too

    @property
    def has_matrices(self) -> bool:
        """Tells if the kernels multiply cooperative matrices on the device."""
        return self._context.matrices is not None

    def run(self, case: Case, variant: Variant | None = None) -> dict[str, npt.NDArray[Any]]:
        """`variant`: of the case's only kernel that has any."""
        selection = Always(variant) if variant else Selection(self.info.features)
        device = CaseDevice(self._context, self._pipelines, self._timeline, case.limits, selection)
        try:
            results = case.run(device)
        finally:
            device.close()
        self._context.instance.check_validation()
        return results

    def checker(self) -> Checker:
        """Checks kernels one by one, with this device's compiled ones."""
        return Checker(self._context, self._pipelines)

    def close(self) -> None:
        """Leaves everything alone that is still in use."""
        if self._timeline.drain():
            self._timeline.close()
            self._pipelines.close()
            self._context.close()
            self._context.instance.check_validation()
