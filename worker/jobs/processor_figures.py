"""Measures what a processor is good for: how fast its memory is read, and products of each weight type."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.cpu.bandwidth import read_bandwidth
from tplaunch.worker.device import DeviceId
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.jobs.figures import BYTES, COPIES, OPERATIONS, Figure, FigureBegun, PartJob
from tplaunch.worker.jobs.speed import COLUMNS, product_rate
from tplaunch.worker.open_device import open_device

TYPES = ("Q8_0", "Q4_K", "F16", "Q6_K", "Q4_0", "Q5_K", "BF16")  # the most wanted ones first
NUM_WEIGHTS, NUM_WEIGHTS_OF_PROMPTS = 1 << 27, 1 << 24  # of a matrix; the first is in no cache
PROMPT_ROWS = 128
READ = "read.memory"
LATE = "there was no time left for it"


def measure_part(job: PartJob, device_id: DeviceId, say: Callable[[Any], None]) -> None:
    """Says a FigureBegun and a Figure for each number of a part. Raises DeviceError."""
    deadline = time.monotonic() + job.seconds
    threads = job.options.cpu_threads or device_id.num_threads
    if job.part == COPIES:
        say(FigureBegun(READ, "reading memory"))
        cores = sorted(os.sched_getaffinity(0))[:threads]
        say(Figure(READ, "reading memory", _of_threads(len(cores)), read_bandwidth(cores), BYTES))
        return
    for type_ in TYPES:
        for num_rows in (1, PROMPT_ROWS):
            name = type_.lower()
            key, what = (
                (f"matvec.{name}", f"mat-vec {name}")
                if num_rows == 1
                else (f"matmul.{name}", f"mat-mat {name}")
            )
            say(FigureBegun(key, what))
            if time.monotonic() > deadline:
                say(Figure(key, what, "", note=LATE))
                continue
            say(_product(job, device_id, type_, num_rows, key, what))


def _product(job: PartJob, device_id: DeviceId, type_: str, num_rows: int, key: str, what: str) -> Figure:
    num_weights = NUM_WEIGHTS if num_rows == 1 else NUM_WEIGHTS_OF_PROMPTS
    limits = Limits(context_length=1, num_blocks=1, max_rows=num_rows, max_logit_rows=1)
    device = open_device(device_id, job.options, limits)
    try:
        rate = product_rate(device, num_weights, time.perf_counter, type_, limits)
    finally:
        device.close()
    if num_rows == 1:
        bytes_per_weight = FORMATS[type_].nbytes(num_weights // COLUMNS, COLUMNS) / num_weights
        return Figure(key, what, f"{num_weights // COLUMNS} x {COLUMNS}", rate * bytes_per_weight, BYTES)
    return Figure(key, what, f"{num_rows} rows", 2 * num_rows * rate, OPERATIONS)


def _of_threads(count: int) -> str:
    return f"{count} thread{'s' * (count != 1)}"
