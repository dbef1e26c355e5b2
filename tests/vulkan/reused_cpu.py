"""A processor for many small cases: its kernels stay compiled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.vulkan.cases import Case
from tplaunch.worker.cpu.code import Kernels
from tplaunch.worker.cpu.device import CpuDevice
from tplaunch.worker.cpu.recorder import KernelPart, Recorder
from tplaunch.worker.cpu.team import Team, function_at
from tplaunch.worker.measuring.measurements import cache_folder
from tplaunch.worker.vulkan.variants import Variant

Arrays = dict[str, npt.NDArray[Any]]
NUM_THREADS = 3


class ByTurns(CpuDevice):
    """Runs the parts of a kernel's threads one after another, the last one first: none may need another."""

    def __init__(self, case: Case, kernels: Kernels) -> None:
        super().__init__(case.limits, kernels)
        self._absent = Team(kernels, NUM_THREADS, 60.0)
        self._absent.close()
        self._recorder = Recorder(self._state, kernels, self._absent)
        self._call = function_at(kernels["running.run"])

    def finish(self, segment: int) -> None:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            self._finish(segment)

    def _finish(self, segment: int) -> None:
        assert self._program is not None
        for part in self._recorded[id(self._program)][segment]:
            if not isinstance(part, KernelPart):
                part(self._state)
                continue
            for kernel in range(len(part.calls)):
                one = np.array((part.calls[kernel:].ctypes.data, 1, 0), np.int64)
                for thread in reversed(range(NUM_THREADS)):
                    self._call(int(one.ctypes.data), thread, NUM_THREADS)


class ReusedCpu:
    """Runs a case as a device opened for it would, and asserts that more threads give the same bits."""

    has_matrices = is_plain = False
    info = SimpleNamespace(name="a processor", type="cpu", features=frozenset({"integer_dot_product"}))

    def __init__(self) -> None:
        self._kernels = Kernels(cache_folder())

    def run(self, case: Case, variant: Variant | None = None) -> Arrays:
        """Runs a case; there are no variants of kernels."""
        assert variant is None, f"there is no {variant} for processors"
        found = case.run(CpuDevice(case.limits, self._kernels))
        shared = case.run(ByTurns(case, self._kernels))
        for name, values in found.items():
            assert values.tobytes() == shared[name].tobytes(), f"{name} by {NUM_THREADS} threads"
        return found

    def close(self) -> None:
        """Does nothing: memory is all that is held."""
