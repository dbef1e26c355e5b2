"""A NumpyDevice that notes when its segments ran, and how one is opened that does so only where asked for."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.programs.program import Program


class TimedNumpyDevice(NumpyDevice):
    """A TimedDevice. It computes while the host waits for a segment's end."""

    _times: list[tuple[float, float]]

    def submit(self, program: Program, num_rows: int) -> None:
        super().submit(program, num_rows)
        self._times = []

    def finish(self, segment: int) -> None:
        begin = time.perf_counter()
        super().finish(segment)
        self._times.append((begin, time.perf_counter()))

    def step_times(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return np.array(self._times), np.zeros((0, 2))


def open_numpy(limits: Limits, timestamps: bool) -> NumpyDevice:
    """Returns the reference, which tells its times where that is wanted."""
    return TimedNumpyDevice(limits) if timestamps else NumpyDevice(limits)
