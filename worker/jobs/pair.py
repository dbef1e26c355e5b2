"""Finds out, as one of two ranks, how their devices exchange: for `tplaunch check`.

Both write sums by their devices and read each other's, by every way that a run may choose.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.collectives import CollectiveError, create
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.step import StepLayout, StepView
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.checking.case import filled_matrix, write_bytes
from tplaunch.worker.device import IMPORT, SHARING_WORDS, SHARINGS, DeviceError, DeviceId
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.jobs.figures import FLAG, SECONDS, Figure, PairFigures, PairJob
from tplaunch.worker.jobs.messages import Begin, Meeting
from tplaunch.worker.jobs.pipe import JobPipe
from tplaunch.worker.measuring.waiting import DEVICE, HOST_WAYS, Chooser, known_numbers
from tplaunch.worker.ops.common import MatMul, Op, SumNorm
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.programs.device_exchange import with_exchanges
from tplaunch.worker.programs.moving import with_moves
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.step.sharing import attach_partials
from tplaunch.worker.vulkan.device import VulkanDevice

NUM_RANKS, KIND = 2, "shared-memory"
LENGTH, NUM_ALL_REDUCES, NUM_KNOWN = 4096, 16, 4  # numbers of an all-reduce, and of these in steps
COLUMNS = 32  # few, so that devices meet soon
ROWS, NUM_LARGE, NUM_LARGE_STEPS = (
    256,
    4,
    3,
)  # of large all-reduces, as a prompt has; of these in steps; of steps
LARGE_SIZE = f"{ROWS * LENGTH * 4 >> 20} MiB"
SIZE = f"{LENGTH * 4 >> 10} KiB"
MATRIX = Matrix("matrix", "F32", LENGTH, COLUMNS)
LIMITS = Limits(context_length=1, num_blocks=1, max_rows=ROWS, max_logit_rows=1)
MOVED = "moved"  # through devices' own memory, by longer runs
WHAT = {
    "block": "all-reduce, host sleeps",
    "poll": "all-reduce, host polls",
    "word": "all-reduce, by a word",
    DEVICE: "all-reduce by devices",
    MOVED: "all-reduce, moved sums",
}
MAX_ERROR, NO_NUMBER = 1e-4, 1e9  # of a sum
# Tries of devices to meet: the first time one may still compile. On a card each may take a second.
NUM_TRIES, NUM_TRIES_ON_CPU = 3, 12
IN_VAIN = "devices waited for each other in vain, as where they take turns, or other programs use them"

Floats = npt.NDArray[np.float32]


def measure_pair(job: PairJob, device_id: DeviceId, rank: int, pipe: JobPipe) -> None:
    """Says what each stage gave: sharing memory, ways by the hosts, the devices' own way.

    Raises DeviceError and WireError.
    """
    try:
        _measure(job, device_id, rank, pipe)
    except CollectiveError as error:
        raise DeviceError(str(error)) from error


def _measure(job: PairJob, device_id: DeviceId, rank: int, pipe: JobPipe) -> None:
    collective = create(
        KIND,
        rank=rank,
        num_ranks=NUM_RANKS,
        slot_bytes=ROWS * LENGTH * 4,
        token=job.token,
        timeout_seconds=job.options.timeout_seconds,
    )
    device = VulkanDevice(device_id, job.options, LIMITS)
    try:
        pipe.send(Meeting((collective.endpoint,)))
        collective.connect(pipe.expect(Meeting).endpoints)
        pair = Pair(device, SegmentRunner(device, collective))
        for stage in (pair.sharing, pair.by_hosts, pair.of_prompts, pair.by_devices):
            pipe.expect(Begin)
            pipe.send(PairFigures(stage()))
    finally:
        device.close()
        collective.close()


class Pair:
    """One rank of two, with its device's buffers."""

    def __init__(self, device: VulkanDevice, runner: SegmentRunner) -> None:
        self._device, self._runner, collective = device, runner, runner.collective
        device.create_buffers(_buffers())
        attach_partials(runner)
        header = StepView(device.view("step").view(np.uint32), StepLayout(LIMITS)).header
        header[:4] = (1, 0, 0, 0)
        self._header = header
        write_bytes(device, "weight", 0, np.ones(LENGTH, np.float32).view(np.uint8))
        write_bytes(device, "matrix", 0, filled_matrix(MATRIX, _matrix().view(np.uint8)))
        device.view("input").view(np.float32).reshape(ROWS, COLUMNS)[:] = _input(collective.rank)
        device.finish_loading()
        self._chooser = Chooser(runner, sums, LENGTH, header, None)

    def sharing(self) -> tuple[Figure, ...]:
        """Tells whether both devices see the same memory, and whether sums come out right by it."""
        told = self._runner.told([float(SHARINGS.index(self._device.sharing))])
        ways = [SHARINGS[int(number)] for number in told[:, 0]]
        others = [
            f"rank {rank} shares sums by {SHARING_WORDS[way]}"
            for rank, way in enumerate(ways)
            if way != IMPORT
        ]
        note = f"{', '.join(others)}; -v says why" if others else ""
        seen = Figure(
            "share.imported", "host memory, imported", "by both", float(not others), FLAG, note=note
        )
        return seen, Figure(
            "share.sums", "sums of both devices", SIZE, 1.0, FLAG, _problem(self._error("block"))
        )

    def by_hosts(self) -> tuple[Figure, ...]:
        """Times the ways in which hosts wait for their devices."""
        return self._figures(HOST_WAYS)

    def of_prompts(self) -> tuple[Figure, ...]:
        """Times all-reduces of many rows, whose sums travel through the devices' own memory."""
        device, program = self._device, with_moves(_program(lambda parity: (), NUM_LARGE, ROWS))
        self._header[0] = ROWS
        error = self._error(MOVED)
        device.wait_by("block")
        device.prepare(program)
        best = math.inf
        for _ in range(NUM_LARGE_STEPS):
            started = time.perf_counter()
            self._runner.run(program, ROWS, LENGTH, _unheard)
            best = min(best, time.perf_counter() - started)
        self._header[0] = 1
        seconds = max(self._runner.slowest([best])) / NUM_LARGE
        return (Figure(f"exchange.{MOVED}", WHAT[MOVED], LARGE_SIZE, seconds, SECONDS, _problem(error)),)

    def by_devices(self) -> tuple[Figure, ...]:
        """Times what devices do among themselves, where they can."""
        fault = self._chooser.fault(self._device, "", self._device.on_cpu)
        if fault:
            return (Figure(f"exchange.{DEVICE}", WHAT[DEVICE], SIZE, note=f"not here: {fault}"),)
        return self._figures((DEVICE,))

    def _figures(self, ways: Sequence[str]) -> tuple[Figure, ...]:
        numbers = self._chooser.measure(self._device, ways)
        return tuple(self._figure(way, numbers[way]) for way in ways)

    def _figure(self, way: str, seconds: float | None) -> Figure:
        """Tells the time of a way, and whether its sums are right; of devices only where they have met."""
        error = None if seconds is None else self._error(way)
        note = IN_VAIN if error is None else ""
        return Figure(f"exchange.{way}", WHAT[way], SIZE, seconds, SECONDS, _problem(error), note)

    def _error(self, way: str) -> float | None:
        """Runs a step whose sums are known: the largest error, the same on both ranks.

        None where devices did not meet in any of some tries.
        """
        self._device.wait_by(way if way in HOST_WAYS else "block")
        num_rows = ROWS if way == MOVED else 1
        program = {DEVICE: with_exchanges, MOVED: with_moves}.get(way, _as_it_is)(known_sums(num_rows))
        self._device.prepare(program)
        hidden = self._device.view("hidden").view(np.float32)
        for _ in range(NUM_TRIES_ON_CPU if self._device.on_cpu else NUM_TRIES):
            hidden[:] = 0
            if self._runner.run(program, num_rows, LENGTH, _unheard):
                break
            self._chooser.resume()
        else:
            return None
        expected = NUM_KNOWN * sum(_matrix() @ _input(rank) for rank in range(NUM_RANKS))
        found = hidden.reshape(ROWS, LENGTH)[:num_rows]
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        return max(self._runner.slowest([error if math.isfinite(error) else NO_NUMBER]))


def _problem(error: float | None) -> str:
    if error is None or error <= MAX_ERROR:
        return ""
    return f"sums are wrong: an error of {error:.1e}, where {MAX_ERROR:.0e} may be"


def _buffers() -> dict[str, Buffer]:
    rows = Buffer(ROWS * LENGTH * 4, row_length=LENGTH)
    return {
        "step": Buffer(StepLayout(LIMITS).num_words * 4, Placement.UPLOAD),
        "hidden": Buffer(ROWS * LENGTH * 4, Placement.READBACK, LENGTH),
        "weight": Buffer(LENGTH * 4, row_length=LENGTH),
        "normed": rows,
        "input": Buffer(ROWS * COLUMNS * 4, Placement.UPLOAD, COLUMNS),
        "matrix": Buffer(FORMATS[MATRIX.type].nbytes(LENGTH, COLUMNS), Placement.WEIGHTS),
    }


def _matrix() -> Floats:
    """Numbers by which each sum is another one [LENGTH, COLUMNS]."""
    return known_numbers(0, 0, LENGTH * COLUMNS // 2).reshape(LENGTH, COLUMNS) % np.float32(7)


def _input(rank: int) -> Floats:
    return np.linspace(1, 2 + rank, COLUMNS, dtype=np.float32)


def sums() -> Program:
    """Nothing but all-reduces, each with the norm that adds it up."""
    return _program(lambda parity: (), NUM_ALL_REDUCES)


def known_sums(num_rows: int = 1) -> Program:
    """The same behind products, so that the sums are known."""
    return _program(
        lambda parity: (MatMul(MATRIX, None, "input", "partials", 0, "rows", parity=parity),),
        NUM_KNOWN,
        num_rows,
    )


def _as_it_is(program: Program) -> Program:
    return program


def _program(before: Callable[[int], tuple[Op, ...]], num_all_reduces: int, num_rows: int = 1) -> Program:
    segments: list[Segment] = []
    norm: tuple[Op, ...] = ()
    for number in range(num_all_reduces):
        parity = number % 2
        segments.append(Segment((*norm, *before(parity)), parity))
        norm = (SumNorm("hidden", "weight", LENGTH, 1e-5, "normed", "rows", "partials", parity),)
    return Program(num_rows, 0, (*segments, Segment(norm, None)))


def _unheard(_kind: str) -> None:
    pass
