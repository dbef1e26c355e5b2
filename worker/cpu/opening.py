"""Opens a device of compiled kernels, or NumPy where there can be none after all."""

from __future__ import annotations

import logging

from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.measuring.measurements import cache_folder
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.numpy.timed_device import TimedNumpyDevice, open_numpy

log = logging.getLogger("worker")


def open_cpu(limits: Limits, options: RankOptions, num_threads: int) -> NumpyDevice:
    """Returns a device with so many threads, unless --cpu-threads says another number.

    Numba or LLVM may be there and refuse to be imported, beside a NumPy that is newer than they know, or
    compile nothing. Then NumPy computes, which a note says. What else goes wrong is raised.
    """
    try:
        return _opened(limits, options, options.cpu_threads or num_threads)
    except ImportError as error:
        log.exception("no kernels can be compiled")
        device = open_numpy(limits, options.timestamps)
        device.notes = (f"NumPy computes in place of compiled kernels, and is slower: {error}",)
        return device


def _opened(limits: Limits, options: RankOptions, num_threads: int) -> NumpyDevice:
    """Imports LLVM; another process imports Numba where kernels have to be compiled."""
    try:
        from tplaunch.worker.cpu.code import Kernels
    except OSError as error:  # llvmlite's library can't be loaded
        raise ImportError(str(error)) from error
    from tplaunch.worker.cpu.device import CpuDevice
    from tplaunch.worker.cpu.team import running_kernels

    class TimedCpuDevice(TimedNumpyDevice, CpuDevice):
        """A TimedDevice."""

    kernels = Kernels(cache_folder())
    # These tell whether there can be any.
    if missing := kernels.missing(running_kernels(num_threads)):
        try:
            kernels.compile(missing)
        except RuntimeError as error:
            raise ImportError(str(error)) from error
    kind = TimedCpuDevice if options.timestamps else CpuDevice
    return kind(limits, kernels, num_threads, options.timeout_seconds)
