"""Opens what was measured of several devices of this machine together, beside each device's own numbers."""

from __future__ import annotations

import os
import platform

import numpy as np

import tplaunch
from tplaunch.shaders.load import kernels_hash
from tplaunch.worker.measuring.measurements import Measurements, cache_folder


def machine_measurements(devices: str) -> Measurements:
    """devices: with their drivers. The numbers hold for this release and these kernels, and as many cores."""
    machine = f"{platform.node()}, {len(os.sched_getaffinity(0))} cores, NumPy {np.__version__}"
    identity = {"together": devices, "machine": machine}
    return Measurements(cache_folder(), identity, f"{tplaunch.__version__} {kernels_hash()}")
