"""Finds out, with all ranks together, how each device can share the arena."""

from __future__ import annotations

import logging

import numpy as np

from tplaunch.worker.device import SHARING_WORDS, DeviceError, SharingDevice
from tplaunch.worker.step.exporting import export_arena
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.step.trial import faulty

log = logging.getLogger("worker")


def attach_partials(runner: SegmentRunner) -> None:
    """Attaches the collective's arena to the device, in a way that works. Raises what share_sums() raises."""
    device, collective = runner.device, runner.collective
    if isinstance(device, SharingDevice) and collective.backing is not None:
        device.back_partials(collective.backing)
    device.attach_partials(collective.arena, collective.write_slot, collective.num_partials)
    share_sums(runner)
    export_arena(runner)
    log.info("%s shares partial sums by %s", device.name, SHARING_WORDS[device.sharing])


def share_sums(runner: SegmentRunner) -> None:
    """Has every device whose sharing does not work go on to its next way, until that of all works.

    The arena is attached, and no program prepared. Raises DeviceError, on all ranks, where a device has no
    way left.
    """
    if runner.collective.num_ranks == 1:
        return
    number, at_fault = 0, faulty(runner, 0)
    while at_fault.any():
        number += 1
        failed = at_fault[runner.collective.rank] and not _goes_on(runner)
        failures = runner.told([float(failed)])[:, 0]
        if failures.any():
            names = [str(runner.collective.names[rank]) for rank in np.flatnonzero(failures)]
            raise DeviceError(
                f"partial sums do not come through from or to the device of rank {', '.join(names)};"
                " --collective zmq needs no memory that ranks share"
            )
        at_fault = faulty(runner, number)


def _goes_on(runner: SegmentRunner) -> bool:
    """Tells whether the device of this rank shares the arena in another way now."""
    device = runner.device
    words = SHARING_WORDS[device.sharing]
    if not isinstance(device, SharingDevice) or not device.share_otherwise():
        return False
    log.info("%s: partial sums do not come through by %s", device.name, words)
    return True
