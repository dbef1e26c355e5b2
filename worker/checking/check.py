"""A check: a case whose results on a device are held against NumPy's, and by how much they may differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.worker.checking.case import Arrays, Case
from tplaunch.worker.device import Device
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.common import Op

# Errors are the largest difference in a buffer over its largest value. Float32 sums differ by a millionth;
# what a wrong kernel computes differs by a hundredth at least, for values are all of one size.
BOUND = 1e-4
FLOAT16_BOUND = 4e-3  # a number of 11 bits may be rounded to its neighbour
INT8_BOUND = 1.1 / 127  # a quant may


def everything(results: Arrays) -> Arrays:
    """All buffers, also those where nothing was to be written."""
    return results


@dataclass(frozen=True)
class Check:
    """One op on made-up values. `read` takes from the results what is to be the same on every device."""

    op: Op
    case: Case
    bound: float = BOUND
    read: Callable[[Arrays], Arrays] = everything

    def expected(self) -> Arrays:
        """NumPy's results."""
        return self.run(NumpyDevice(self.case.limits))

    def run(self, device: Device) -> Arrays:
        """A device's results. Raises DeviceError."""
        with np.errstate(all="ignore"):
            return self.read(self.case.run(device))

    def error(self, results: Arrays, expected: Mapping[str, npt.NDArray[Any]]) -> float:
        """The largest error of any buffer; infinity where one has no number and the other has."""
        return max(relative_error(results[name], values) for name, values in expected.items())


def relative_error(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest difference over the largest value."""
    one, other = (np.asarray(values, np.float64) for values in (actual, expected))
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return math.inf
    counts = np.isfinite(other)
    if not counts.any():
        return 0.0
    scale = float(np.abs(other[counts]).max()) or 1.0
    return float(np.abs(one[counts] - other[counts]).max()) / scale
