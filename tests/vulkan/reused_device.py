"""A Vulkan device for many small cases: its kernels stay compiled, its buffers go after each case."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.vulkan.cases import Case
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.device import DeviceOptions
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.variants import Always, Selection, Variant

Bytes = npt.NDArray[np.uint8]


class ReusedDevice(VulkanDevice):
    """Runs a case as a device opened for it would."""

    def __init__(self, options: DeviceOptions) -> None:
        super().__init__(options, Limits(context_length=1, num_blocks=1))

    @property
    def matrix_size(self) -> int:
        """Of the cooperative matrices that it multiplies; 0 without any."""
        return self._context.matrix_size

    def run(self, case: Case, variant: Variant | None = None) -> dict[str, npt.NDArray[Any]]:
        """`variant`: of the case's only kernel that has any."""
        self._limits = case.limits
        self._selection = Always(variant) if variant else Selection(self.info.features)
        try:
            return case.run(self)
        finally:
            self._forget()

    def attach_partials(self, arena: Bytes, write_slot: int) -> None:
        """A case begins with partial sums, and wants all of them back, also where the device has a copy."""
        super().attach_partials(arena, write_slot)
        if self._staged is not None:
            self._staged._copy[:] = arena

    def finish(self, segment: int) -> None:
        super().finish(segment)
        if self._staged is not None:
            self._staged._arena[:] = self._staged._copy

    def _forget(self) -> None:
        if self._partials is not None:
            self._partials.close()
        self._memory.close()
        self._memory = Memory(self._context, unmapped=self._staging)
        self._partials = self._staged = None
        self._prepared.clear()
        self._current = None
