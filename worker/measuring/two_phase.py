"""Decides from how many bytes on an all-reduce has two phases: all ranks measure together, and agree.

With one phase every rank reads every rank's partials; with two it reads its slice of them and then the sum,
for the price of another exchange. So it can only pay with more than two ranks. Among hosts the second way is
the ring, which can only pay with more than two hosts.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.shaders.load import kernels_hash
from tplaunch.worker.measuring.measurements import Measurements, Numbers, cache_folder
from tplaunch.worker.programs.program import Program
from tplaunch.worker.step.segments import SegmentRunner

NEVER = math.inf
WAYS = ("one-shot", "two-phase")
NUM_RUNS = 3  # of each way, by turns; the best counts
ADVANTAGE = 0.95  # of one-shot's time, to be worth a change

BuildSums = Callable[[int, bool], Program]  # rows, two_phase -> a prepared program of nothing but all-reduces
log = logging.getLogger("worker")


def kept_measurements(kinds: Sequence[str], anew: bool = False, hosts: str = "") -> Measurements:
    """Opens the user's measurements of ranks on devices of these kinds together, in rank order.

    anew: as if it held nothing. hosts: how ranks are spread over them, where there are several.
    """
    device = {"ranks": "; ".join(kinds), "node": platform.node()} | ({"hosts": hosts} if hosts else {})
    measurements = Measurements(cache_folder(), device, kernels_hash())
    if anew:
        measurements.forget()
    return measurements


def measurement_name(num_bytes: int) -> str:
    """Under which both ways were measured for a message."""
    return f"all-reduce of {num_bytes} bytes"


def pays(one_shot: float, two_phase: float) -> bool:
    """Returns true if two phases are worth it, by the seconds of both ways."""
    return two_phase <= ADVANTAGE * one_shot


def bucket_rows(max_rows: int) -> Iterator[int]:
    """The rows of the largest message, and then of ever smaller ones: powers of two."""
    rows = max_rows
    while rows:
        yield rows
        rows = (1 << (rows - 1).bit_length()) // 2 if rows > 1 else 0


def measured_threshold(
    runner: SegmentRunner,
    build: BuildSums,
    max_rows: int,
    row_bytes: int,
    step_header: npt.NDArray[np.uint32],
    kept: Measurements | None = None,
) -> float:
    """Bytes of the smallest message, of those of 1, 2, 4 ... max_rows rows, for which two phases are faster.

    Begins with the largest and ends with the first for which they are not. The same on all ranks.
    kept: where the rank that has any looks first, and puts what it measures.
    """
    threshold = NEVER
    for rows in bucket_rows(max_rows):
        name = measurement_name(rows * row_bytes)
        seconds = _known(runner, kept.get(name) if kept else {})
        if seconds is None:
            step_header[0] = rows
            seconds = _measure(runner, [build(rows, way) for way in (False, True)], row_bytes)
            log.info("%s: %.0f us one-shot, %.0f us in two phases", name, *(1e6 * s for s in seconds))
            if kept:
                kept.put(name, dict(zip(WAYS, seconds, strict=True)))
        if not pays(*seconds):
            break
        threshold = rows * row_bytes
    if kept:
        kept.save()
    return threshold


def _known(runner: SegmentRunner, numbers: Numbers) -> list[float] | None:
    """Returns the kept seconds of each way, known to one rank and told to all; None where any is missing."""
    seconds = runner.slowest([numbers.get(way) or 0.0 for way in WAYS])
    return seconds if min(seconds) > 0 else None


def _measure(runner: SegmentRunner, programs: list[Program], row_bytes: int) -> list[float]:
    """Seconds of an all-reduce by each program, on the slowest rank."""
    best = [math.inf] * len(programs)
    for _ in range(NUM_RUNS):
        for way, program in enumerate(programs):
            started = time.perf_counter()
            runner.run(program, program.rows, row_bytes // 4, _unheard)
            seconds = (time.perf_counter() - started) / program.num_all_reduces
            best[way] = min(best[way], seconds)
    return runner.slowest(best)


def _unheard(_kind: str) -> None:
    pass
