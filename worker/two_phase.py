"""Decides from how many bytes on an all-reduce has two phases: all ranks measure together, and agree.

With one phase every rank reads every rank's partials; with two it reads its slice of them and then the sum,
for the price of another exchange. So it can only pay with more than two ranks.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from worker.program import Program
from worker.segments import SegmentRunner

NEVER = math.inf
NUM_RUNS = 3  # of each way, by turns; the best counts
ADVANTAGE = 0.95  # of one-shot's time, to be worth a change

BuildSums = Callable[[int, bool], Program]  # rows, two_phase -> a prepared program of nothing but all-reduces
log = logging.getLogger("worker")


def measured_threshold(
    runner: SegmentRunner,
    build: BuildSums,
    max_rows: int,
    row_bytes: int,
    step_header: npt.NDArray[np.uint32],
) -> float:
    """Bytes of the smallest message, of those of 1, 2, 4 ... max_rows rows, for which two phases are faster.

    Begins with the largest and ends with the first for which they are not. The same on all ranks.
    """
    threshold, rows = NEVER, max_rows
    while rows:
        step_header[0] = rows
        one_shot, two_phase = _measure(runner, [build(rows, way) for way in (False, True)], row_bytes)
        log.info(
            "an all-reduce of %d bytes: %.0f us one-shot, %.0f us in two phases",
            rows * row_bytes, one_shot * 1e6, two_phase * 1e6,
        )  # fmt: skip
        if two_phase > ADVANTAGE * one_shot:
            break
        threshold = rows * row_bytes
        rows = _smaller(rows)
    return threshold


def _smaller(rows: int) -> int:
    """The next smaller power of two; none below one."""
    return (1 << (rows - 1).bit_length()) // 2 if rows > 1 else 0


def _measure(runner: SegmentRunner, programs: list[Program], row_bytes: int) -> list[float]:
    """Seconds of an all-reduce by each program, on the slowest rank."""
    best = [math.inf] * len(programs)
    for _ in range(NUM_RUNS):
        for way, program in enumerate(programs):
            started = time.perf_counter()
            runner.run(program, program.rows, program.rows * row_bytes // 4, _unheard)
            seconds = (time.perf_counter() - started) / program.num_all_reduces
            best[way] = min(best[way], seconds)
    return runner.slowest(best)


def _unheard(_kind: str) -> None:
    pass
