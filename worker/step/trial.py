"""Tries whether what each device writes to the arena reaches all others.

A driver may import memory and yet write to a copy of it, or read what a cache of its own still holds. So
numbers that no one else has go from each device to every other, and to every host, before the first step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.worker.device import SharingDevice
from tplaunch.worker.step.segments import SegmentRunner

COUNT = 16  # numbers of a rank, in a trial

Floats = npt.NDArray[np.float32]


def faulty(runner: SegmentRunner, number: int) -> npt.NDArray[np.bool_]:
    """Tells of each rank if its device is to share otherwise [ranks]; the same on all ranks.

    It is where a host does not see what its device wrote, or where that does not see what its own host does.
    """
    device, collective = runner.device, runner.collective
    expected = np.stack([known_numbers(number, rank) for rank in range(collective.num_ranks)])
    own = np.zeros_like(expected)
    own[collective.rank] = expected[collective.rank]
    if isinstance(device, SharingDevice):
        collective.own(0)[: own.size] = 0  # else what was there might pass for another rank's
        device.put_partials(own.reshape(-1))
    else:
        collective.own(0)[: own.size] = own.reshape(-1)
    runner.exchange(0, own.size)
    by_host = _table(collective.partials(0)[:, : own.size], expected.shape)
    by_device = by_host
    if isinstance(device, SharingDevice):
        by_device = _table(device.seen_partials(own.size), expected.shape)
    arrived = (by_host == expected).all(axis=1)
    unseen = bool((arrived & (by_device != expected).any(axis=1)).any())
    runner.exchange(1, 0)  # nobody writes again before all have looked
    told = runner.told([float(unseen), *map(float, ~arrived)])
    return np.asarray((told[:, 0] > 0) | (told[:, 1:] > 0).any(axis=0))


def _table(partials: Floats, shape: tuple[int, ...]) -> Floats:
    """Adds up partial sums [slots, elements], of which each element is not zero in one; whole numbers."""
    table: Floats = partials.sum(axis=0).reshape(shape)
    return table


def known_numbers(number: int, rank: int) -> Floats:
    """Numbers that no other rank and no other trial has [COUNT]."""
    return (1 + 1000 * rank + COUNT * number + np.arange(COUNT)).astype(np.float32)
