"""Measures how fast a rank's device copies memory, whatever device it is."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

import numpy as np

from tplaunch.worker.device import Device

NUM_BYTES = 64 << 20
NUM_TRIALS = 3


@runtime_checkable
class CopyingDevice(Protocol):
    """A device with memory of its own kind; any other computes in the host's."""

    def copy_bandwidth(self) -> float:
        """Bytes read and written per second; 0 where memory is short."""


def copy_bandwidth(device: Device) -> float:
    """Before buffers are created: what it copies is freed again."""
    if isinstance(device, CopyingDevice):
        return device.copy_bandwidth()
    source, target = np.zeros(NUM_BYTES, np.uint8), np.ones(NUM_BYTES, np.uint8)
    source[:] = 1  # zeros may all be one page
    seconds = []
    for _ in range(NUM_TRIALS):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - started)
    return 2 * NUM_BYTES / min(seconds)
