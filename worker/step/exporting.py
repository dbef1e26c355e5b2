"""Moves the arena of a host to memory that one of its devices exports, where hosts would copy sums otherwise.

All ranks of the host move together, or none does: one allocates the memory and hands it over, every device
imports it and every host maps it, known numbers go from each to all others, and only then it is kept. After
each stage all ranks tell each other whether they got so far, so that nobody waits for one that did not.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import arena_view
from tplaunch.collectives.descriptors import Caller, Door, HandoverError
from tplaunch.worker.device import COPY, DeviceError, Mover, MovingDevice, SharingDevice
from tplaunch.worker.dma_buf import DmaBufError, fill_with_zeros, map_dma_buf
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.step.trial import faulty

UNIT = 64 << 10  # bytes: whole pages of every device
FIRST_TRIAL = 8  # whose numbers no trial before has had
MAX_MOVES = 8  # tried on a host
READ_BYTES, NUM_READS = 1 << 20, 3  # by which a host's reading is timed

Bytes = npt.NDArray[np.uint8]
log = logging.getLogger("worker")


class Told(NamedTuple):
    """A rank tells the others this of itself."""

    copies: float  # its host does, around each all-reduce
    can_move: float
    can_export: float
    process: float  # by which others know that a descriptor is the rank's: under 2^22


def export_arena(runner: SegmentRunner) -> None:
    """Tries each device of this host that exports, one after another, while any has its sums copied.

    The arena is attached, in the best other way, and no program prepared.
    """
    if runner.collective.num_ranks == 1:
        return
    told = [Told(*row) for row in runner.told(list(_own(runner))).tolist()]
    if not any(rank.copies for rank in told):
        return
    exporters = candidates(told, runner.collective.neighbours)
    number = FIRST_TRIAL
    while runner.told([float(bool(exporters))]).any():  # on another host, perhaps
        exporter = exporters.pop(0) if exporters else None
        if _Move(runner, exporter, [int(rank.process) for rank in told]).succeeds(number):
            exporters = []
        number += 1


def _own(runner: SegmentRunner) -> Told:
    device, process = runner.device, os.getpid()
    copies = device.sharing == COPY and len(runner.collective.neighbours) > 1
    if isinstance(device, MovingDevice):
        return Told(copies, device.mover.can_move, device.mover.can_export, process)
    is_host = not isinstance(device, SharingDevice)  # which computes in the arena itself, wherever it is
    return Told(copies, is_host, False, process)


def candidates(told: Sequence[Told], neighbours: Sequence[int]) -> list[int]:
    """Returns the ranks of a host whose memory it may move to, the best first; none where nothing is copied.

    A driver that takes no memory from elsewhere most likely takes its own.
    """
    if not any(told[rank].copies for rank in neighbours):
        return []
    found = [
        rank
        for rank in neighbours
        if told[rank].can_export and all(told[other].can_move for other in neighbours if other != rank)
    ]
    return sorted(found, key=lambda rank: not told[rank].copies)[:MAX_MOVES]


class _Move:
    """One try, as one rank makes it. Without an exporter it only hears what other hosts' ranks tell."""

    def __init__(self, runner: SegmentRunner, exporter: int | None, processes: Sequence[int]) -> None:
        self._runner, self._exporter, self._processes = runner, exporter, processes
        self._collective, self._device = runner.collective, runner.device
        self._neighbours = list(self._collective.neighbours)
        self._exports = exporter == self._collective.rank
        self._num_bytes = 0
        self._address = 0  # of the exporter's door
        self._door: Door | None = None
        self._caller: Caller | None = None
        self._descriptor = -1
        self._memory: mmap.mmap | None = None
        self._owned = contextlib.ExitStack()  # what only the try needs

    def succeeds(self, number: int) -> bool:
        """Tells whether the arena lies in exported memory now; the same on all ranks of the host.

        number: of the trial.
        """
        going = self._exporter is not None
        with self._owned:
            for stage in (self._offer, self._knock, self._hand_over, self._take, self._attach):
                going = self._passed(stage, going)
        if going:
            self._move(self._memory)
        else:
            self._end(stays=False)
        at_fault = faulty(self._runner, number)[self._neighbours]  # on other hosts, too
        if not going:
            return False
        stays = not at_fault.any()
        if not stays:
            log.info("sums do not come through in memory that rank %s exports", self._exporter)
            self._move(None)
        self._end(stays)
        return stays

    def _end(self, stays: bool) -> None:
        if self._mover is not None:
            self._mover.end_move(stays)

    def _passed(self, stage: Callable[[], None], going: bool) -> bool:
        """Tells whether all ranks of this host pass a stage, in which this one takes part if `going`."""
        fault = ""
        if going:
            try:
                stage()
            except (DeviceError, DmaBufError, HandoverError, OSError) as error:
                fault = str(error)
                log.info("%s does not share partial sums by an export: %s", self._device.name, fault)
        told = self._runner.told([float(bool(fault)), float(self._door.number if self._door else 0)])
        if self._exporter is not None:
            self._address = int(told[self._exporter, 1])
        return going and not told[self._neighbours, 0].any()

    @property
    def _mover(self) -> Mover | None:
        return self._device.mover if isinstance(self._device, MovingDevice) else None

    def _offer(self) -> None:
        self._num_bytes = -(-self._collective.moved_bytes // UNIT) * UNIT
        if not self._exports:
            return
        assert self._mover is not None, "no device exports"
        self._hold(self._mover.export(self._num_bytes))
        assert self._memory is not None
        fill_with_zeros(self._descriptor, self._memory)
        self._door = Door(len(self._neighbours) - 1)
        self._owned.callback(self._door.close)

    def _hold(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._owned.callback(os.close, descriptor)
        self._memory = map_dma_buf(descriptor, self._num_bytes)

    def _knock(self) -> None:
        if self._exporter is not None and not self._exports:
            self._caller = Caller(self._address, self._processes[self._exporter])
            self._owned.callback(self._caller.close)

    def _hand_over(self) -> None:
        if self._door is not None:
            peers = [self._processes[rank] for rank in self._neighbours if rank != self._exporter]
            self._door.hand_over(self._descriptor, peers)

    def _take(self) -> None:
        if self._caller is not None:
            self._hold(self._caller.take())
        collective = self._collective
        num_read = self._slots_read()
        if num_read:
            size = min(collective.slot_bytes, READ_BYTES)
            exported, own = (read_seconds(arena[0, 0, :size]) for arena in (self._arena(), collective.arena))
            check_reading(exported, own, num_read, collective.num_partials)

    def _slots_read(self) -> int:
        """Returns how many slots this rank's host itself reads in an all-reduce."""
        collective = self._collective
        if not isinstance(self._device, MovingDevice):  # NumPy computes there
            return collective.num_partials
        adds_up = collective.touches_sums and collective.rank == self._neighbours[0]
        return len(self._neighbours) if adds_up else 0

    def _arena(self) -> Bytes:
        """Returns the arena to be, of the same shape."""
        assert self._memory is not None, "nothing is mapped"
        _, num_slots, slot_bytes = self._collective.arena.shape
        return arena_view(self._memory, 0, num_slots, slot_bytes)

    def _attach(self) -> None:
        if self._mover is not None:
            self._mover.move(self._arena(), self._descriptor, self._num_bytes)

    def _move(self, memory: mmap.mmap | None) -> None:
        collective, device = self._collective, self._device
        collective.move(memory)
        if not isinstance(device, MovingDevice):  # the host computes in the arena itself
            device.attach_partials(collective.arena, collective.write_slot, collective.num_partials)


def read_seconds(memory: Bytes) -> float:
    """Returns how long the host takes to read some memory."""
    target, best = np.empty_like(memory), float("inf")
    for _ in range(NUM_READS):
        started = time.perf_counter()
        np.copyto(target, memory)
        best = min(best, time.perf_counter() - started)
    return best


def check_reading(exported: float, own: float, num_read: int, num_partials: int) -> None:
    """Raises DeviceError where a host reads sums, and exported memory so slowly that copies cost less.

    exported, own: seconds to read a slot of either. num_read: slots that the host reads in an all-reduce.
    With copies they lie in its own memory, but hosts copy sums there, and num_partials of them from there.
    """
    if num_read * exported > (num_read + 1 + num_partials) * own:
        raise DeviceError(
            f"the host, which reads sums, takes {exported / own:.1f} times as long to read exported memory"
            " as its own: copies cost less"
        )
