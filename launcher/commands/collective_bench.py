"""`tplaunch bench-collectives`: how long the ranks' all-reduces take, beside those of other libraries."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tplaunch.coordinator.framing import framed
from tplaunch.coordinator.options import COLLECTIVES, check_seconds
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.coordinator.split.plan import MAX_GROUP
from tplaunch.launcher.bench_ranks import BenchRanks
from tplaunch.launcher.cores import rank_cores, usable_cores
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.lines import say
from tplaunch.launcher.processors import NUMPY
from tplaunch.launcher.rank_words import core_word
from tplaunch.launcher.sizes import UNITS
from tplaunch.launcher.socket_folder import socket_folder
from tplaunch.launcher.table import format_table
from tplaunch.launcher.worker_command import WORKER_COMMAND, job_words
from tplaunch.worker.jobs.messages import CollectiveJob, Timings

OURS = (*(f"{kind}{way}" for kind in COLLECTIVES[:2] for way in ("", " two-phase")), COLLECTIVES[2])
MIN_CALLS, MAX_CALLS = 20, 1000
Seconds: TypeAlias = tuple[tuple[tuple[float, ...], ...], ...]  # [ranks][sizes][calls]
BYTES_PER_SIZE = 1 << 28  # about how much is summed of each size, within those


@dataclass(frozen=True)
class Latency:
    """One collective at one size: the slowest rank's seconds of each call."""

    collective: str
    ranks: int
    bytes: int
    calls: int
    median_microseconds: float
    p99_microseconds: float
    gigabytes_per_second: float  # bytes of the sum by the median


def bench_collectives(
    ranks: tuple[int, ...], sizes: tuple[int, ...], timeout_seconds: float, output: str
) -> int:
    """output: table, json or csv."""
    check_seconds("--timeout", timeout_seconds)
    for count in ranks:
        if not 2 <= count <= MAX_GROUP:
            raise UsageError(f"--ranks {count}: 2 to {MAX_GROUP} ranks are possible")
    libraries, missing = _libraries()
    latencies: list[Latency] = []
    for num_ranks in ranks:
        for kind in OURS:
            latencies += _measure(kind, num_ranks, sizes, timeout_seconds)
        for kind in libraries:
            try:
                latencies += _measure(kind, num_ranks, sizes, timeout_seconds)
            except RunError as error:  # another's library: what we have measured stays
                missing.append(f"{kind} is not measured with {num_ranks} ranks: {error}")
    _print(latencies, output)
    for sentence in missing:
        say(sentence)
    return 0


def _libraries() -> tuple[list[str], list[str]]:
    """Returns the collectives to measure beside our own, and a sentence for each that can't be."""
    found, missing = [], []
    if importlib.util.find_spec("torch"):
        found.append("gloo")
    else:
        missing.append("gloo is not measured: torch is not installed")
    if importlib.util.find_spec("mpi4py") and shutil.which("mpirun"):
        found.append("openmpi")
    else:
        missing.append("OpenMPI is not measured: mpi4py or mpirun is not installed")
    return found, missing


def _measure(kind: str, num_ranks: int, sizes: tuple[int, ...], timeout_seconds: float) -> list[Latency]:
    num_calls = tuple(min(MAX_CALLS, max(MIN_CALLS, BYTES_PER_SIZE // size)) for size in sizes)
    with socket_folder() as folder:
        job = CollectiveJob(
            kind, num_ranks, sizes, num_calls, secrets.token_bytes(16), str(folder), timeout_seconds
        )
        seconds = _run_mpi(job) if kind == "openmpi" else run_ranks(job)
    return [
        _latency(kind, num_ranks, size, np.array([rank[i] for rank in seconds]).max(axis=0))
        for i, size in enumerate(sizes)
    ]


def _latency(kind: str, num_ranks: int, size: int, seconds: Any) -> Latency:
    median, p99 = (float(value) for value in np.percentile(seconds, (50, 99)))
    return Latency(kind, num_ranks, size, seconds.size, median * 1e6, p99 * 1e6, size / median / 1e9)


def run_ranks(job: CollectiveJob) -> Seconds:
    """Runs the ranks of a job of one of COLLECTIVES, or of gloo; returns every rank's seconds."""
    choices = [DeviceChoice(None, NUMPY)] * job.num_ranks
    with BenchRanks(job.kind, job.timeout_seconds) as ranks:
        for rank, cores in enumerate(rank_cores(choices, usable_cores())):
            ranks.start([*job_words(), core_word(cores), "--one-core", f"--rank={rank}"])
        ranks.tell(job)
        ranks.meet()
        return tuple(seconds for timings in ranks.hear(Timings) for seconds in timings.seconds)


def _run_mpi(job: CollectiveJob) -> Seconds:
    """The same from ranks that mpirun starts, which read their job from a file: it has one standard input."""
    options = ["-n", str(job.num_ranks), "--oversubscribe", "--bind-to", "none"]
    options += ["--allow-run-as-root"] if os.getuid() == 0 else []
    path = Path(job.folder) / "job"
    path.write_bytes(framed(job))
    with BenchRanks(job.kind, job.timeout_seconds) as ranks:
        ranks.start(["mpirun", *options, *WORKER_COMMAND, "--parent=0", f"--job={path}"])
        return ranks.hear(Timings)[0].seconds


def _print(latencies: Sequence[Latency], output: str) -> None:
    if output == "json":
        print(json.dumps({"results": [asdict(latency) for latency in latencies]}))
    elif output == "csv":
        writer = csv.DictWriter(sys.stdout, list(asdict(latencies[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, latencies))
    else:
        titles = ("collective", "ranks", "size", "median us", "p99 us", "GB/s")
        print(format_table(titles, [_row(latency) for latency in latencies]))


def _row(latency: Latency) -> tuple[str, ...]:
    size, unit = latency.bytes, "B"
    for name in ("KiB", "MiB"):
        if latency.bytes % UNITS[name] == 0:
            size, unit = latency.bytes // UNITS[name], name
    return (
        latency.collective,
        str(latency.ranks),
        f"{size} {unit}",
        f"{latency.median_microseconds:.1f}",
        f"{latency.p99_microseconds:.1f}",
        f"{latency.gigabytes_per_second:.3f}",
    )
