"""Times the steps of one rank whose peers are not there: for a prediction of what ranks reach together.

A step goes all of its way, through the same programs, kernels and buffers as in a run; only the other ranks'
partial sums are zeros that are there at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from tplaunch.collectives import Loopback
from tplaunch.collectives.arena import private_arena
from tplaunch.coordinator.messages import Connect, Message, Step, Wanted
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.wire import Int32s
from tplaunch.worker.buffers.sums import slot_bytes
from tplaunch.worker.control import ControlSocket
from tplaunch.worker.device import DeviceId
from tplaunch.worker.jobs.messages import Begin, Prepared, StepPoint, StepSeconds, StepsJob, StillThere
from tplaunch.worker.jobs.pipe import JobPipe
from tplaunch.worker.place import WorkerPlace
from tplaunch.worker.rank import Worker

MIN_RUNS = 3
NO_PLACE = WorkerPlace("")  # nothing is put into a folder where no rank meets another
SIGN_SECONDS = 1.0  # between two signs of life


class WithoutPeers(Loopback):
    """A collective of several ranks of which only this one is there. The others add nothing."""

    def __init__(self, num_ranks: int, slot_bytes: int) -> None:
        super().__init__(slot_bytes=slot_bytes)
        self.num_partials = num_ranks
        self._arena = private_arena(num_ranks, self.slot_bytes)

    def connect(self, endpoints: Sequence[str]) -> None:
        """Needs nobody."""
        self._connected = True


class Signs(ControlSocket):
    """Tells the launcher that loading goes on, in place of a coordinator."""

    def __init__(self, pipe: JobPipe) -> None:
        self._pipe, self._said = pipe, time.perf_counter()

    def send(self, message: Message) -> None:
        if time.perf_counter() - self._said > SIGN_SECONDS:
            self._pipe.send(StillThere())
            self._said = time.perf_counter()


def time_steps(job: StepsJob, device_id: DeviceId, pipe: JobPipe) -> None:
    """Says Prepared, and behind every Begin the StepSeconds of the next point.

    Raises DeviceError, WireError, and what a model raises that can't be loaded.
    """
    load = job.load
    collective = WithoutPeers(len(load.group), slot_bytes(load.spec, load.limits))
    worker = Worker(load, device_id, NO_PLACE, collective)
    try:
        num_ranks = load.placement.num_ranks
        worker.connect(Connect(("",) * num_ranks, (worker.device.kind,) * num_ranks))
        worker.load_weights(Signs(pipe))
        worker.prepare()
        maker = StepMaker(load.limits)
        for point in job.points:  # builds its program
            worker.run(maker.step(point))
            pipe.send(StillThere())
        pipe.send(Prepared())
        # A CPU driver's core may be shared, which must not count; its work is this process's.
        clock = time.process_time if job.on_cpu else time.perf_counter
        for point in job.points:
            pipe.expect(Begin)
            pipe.send(_timed(worker, maker, point, job.seconds, clock))
    finally:
        worker.close()


def _timed(
    worker: Worker, maker: StepMaker, point: StepPoint, seconds: float, clock: Callable[[], float]
) -> StepSeconds:
    """Runs the step again and again, for so many seconds at least."""
    taken: list[float] = []
    parts: list[float] = []
    started = time.perf_counter()
    while len(taken) < MIN_RUNS or time.perf_counter() - started < seconds:
        step = maker.step(point)
        begin = clock()
        ledger = worker.run(step).ledger
        taken.append(clock() - begin)
        # Without timestamps the host waits while the device computes.
        parts.append(ledger.get("device", ledger["wait"]) / max(1e-9, sum(ledger.values())))
    return StepSeconds(statistics.median(taken), statistics.median(parts))


class StepMaker:
    """Makes steps of made-up tokens, of which nobody wants to know what came before them."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._number = limits, 0

    def step(self, point: StepPoint) -> Step:
        """Returns the next step. Every sequence begins at the point's position; its table is told whole."""
        self._number += 1
        seats = range(point.sequences)
        runs = [(seat, point.position, point.rows, *self._slots(seat, point.position)) for seat in seats]
        num_rows = point.sequences * point.rows
        logit_rows = np.arange(point.sequences, dtype=np.int32) * point.rows + point.rows - 1
        if not point.with_logits:
            logit_rows = logit_rows[:0]
        stop = point.position + point.rows
        return Step(
            self._number,
            np.zeros(num_rows, np.int32),
            np.array(runs, np.int32).ravel(),
            logit_rows,
            self._tables(seats, stop, self._limits.num_blocks),
            self._tables(seats, stop, self._limits.num_window_blocks),
            wanted=Wanted(np.ones(logit_rows.size, np.int32)),
            of_prompts=point.rows > 1,
        )

    def _slots(self, seat: int, position: int) -> tuple[int, int]:
        """The state slots that a run reads and writes."""
        if not self._limits.num_slots:
            return -1, -1
        return (seat if position else -1), seat

    def _tables(self, seats: Sequence[int], stop: int, num_blocks: int) -> Int32s:
        """Every entry, of blocks by turns: sequences may share some, for what they hold does not matter."""
        if not num_blocks:
            return np.zeros(0, np.int32)
        per_seat = -(-stop // self._limits.block_length)
        entries = [
            (seat, place, (seat * per_seat + place) % num_blocks)
            for seat in seats
            for place in range(per_seat)
        ]
        return np.array(entries, np.int32).ravel()
