"""`tplaunch bench-collectives`: how long the ranks' all-reduces take, beside those of other libraries."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import secrets
import selectors
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.config import COLLECTIVES, RunError, UsageError
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import end_reason
from tplaunch.launcher.lines import say
from tplaunch.launcher.signals import held
from tplaunch.launcher.sizes import UNITS
from tplaunch.launcher.socket_folder import socket_folder
from tplaunch.launcher.supervisor import rank_cores
from tplaunch.launcher.table import format_table
from tplaunch.launcher.worker_command import WORKER_COMMAND

OURS = (COLLECTIVES[0], COLLECTIVES[0] + " two-phase", *COLLECTIVES[1:])
MIN_CALLS, MAX_CALLS = 20, 1000
BYTES_PER_SIZE = 1 << 28  # about how much is summed of each size, within those
GRACE_SECONDS = 5.0  # for a rank to end by itself


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


def bench_collectives(ranks: tuple[int, ...], sizes: tuple[int, ...], output: str) -> int:
    """output: table, json or csv."""
    for count in ranks:
        if not 2 <= count <= MAX_RANKS:
            raise UsageError(f"--ranks {count}: 2 to {MAX_RANKS} ranks are possible")
    libraries, missing = _libraries()
    latencies: list[Latency] = []
    for num_ranks in ranks:
        for kind in OURS:
            latencies += _measure(kind, num_ranks, sizes)
        for kind in libraries:
            try:
                latencies += _measure(kind, num_ranks, sizes)
            except RunError as error:  # another's library: what we have measured stays
                missing.append(f"{kind} is not measured with {num_ranks} ranks: {error}")
    _print(latencies, output)
    for sentence in missing:
        say(sentence)
    return 0


def _libraries() -> tuple[list[str], list[str]]:
    """What can be measured beside our own, and a sentence for each that can't."""
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


def _measure(kind: str, num_ranks: int, sizes: tuple[int, ...]) -> list[Latency]:
    num_calls = tuple(min(MAX_CALLS, max(MIN_CALLS, BYTES_PER_SIZE // size)) for size in sizes)
    with socket_folder() as folder:
        job = {
            "kind": kind,
            "num_ranks": num_ranks,
            "sizes": sizes,
            "num_calls": num_calls,
            "token": secrets.token_hex(16),
            "folder": str(folder),
        }
        seconds = _run_mpi(job) if kind == "openmpi" else _run_ranks(job)
    return [
        _latency(kind, num_ranks, size, np.array([rank[i] for rank in seconds]).max(axis=0))
        for i, size in enumerate(sizes)
    ]


def _latency(kind: str, num_ranks: int, size: int, seconds: Any) -> Latency:
    median, p99 = (float(value) for value in np.percentile(seconds, (50, 99)))
    return Latency(kind, num_ranks, size, seconds.size, median * 1e6, p99 * 1e6, size / median / 1e9)


def _run_ranks(job: dict[str, Any]) -> Any:
    """Every rank's seconds [ranks][sizes][calls]."""
    choices = [DeviceChoice(None, "cpu")] * job["num_ranks"]
    with ExitStack() as stack:
        ranks = []
        for rank, cores in enumerate(rank_cores(choices, sorted(os.sched_getaffinity(0)))):
            pin = f"--cores={','.join(map(str, cores))}"
            with held():
                process = _start([*WORKER_COMMAND, pin, *_arguments({**job, "rank": rank})])
                stack.push(partial(_end, process))
            ranks.append(process)
        endpoints = json.dumps(_hear(ranks, job["kind"]))
        for process in ranks:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # of a rank that has ended: it is named when no answer comes
                process.stdin.write(endpoints + "\n")
                process.stdin.flush()
        return _hear(ranks, job["kind"])


def _run_mpi(job: dict[str, Any]) -> Any:
    """The same from ranks that mpirun starts."""
    options = ["-n", str(job["num_ranks"]), "--oversubscribe", "--bind-to", "none"]
    options += ["--allow-run-as-root"] if os.getuid() == 0 else []
    with ExitStack() as stack:
        arguments = _arguments({**job, "rank": 0}, parent=False)
        with held():
            process = _start(["mpirun", *options, *WORKER_COMMAND, *arguments])
            stack.push(partial(_end, process))
        return _hear([process], "openmpi")[0]


def _arguments(job: dict[str, Any], parent: bool = True) -> list[str]:
    return [f"--bench-collective={json.dumps(job)}", f"--parent={os.getpid() if parent else 0}"]


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **threads})


def _hear(ranks: Sequence[subprocess.Popen[str]], kind: str) -> list[Any]:
    """A line of each. Raises RunError for the first that ends without one, while others may wait for it."""
    heard: dict[int, Any] = {}
    with selectors.DefaultSelector() as selector:
        for rank, process in enumerate(ranks):
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, rank)
        while len(heard) < len(ranks):
            for key, _ in selector.select():
                process = ranks[key.data]
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line.endswith("\n"):
                    reason = end_reason(process.wait())
                    raise RunError(f"rank {key.data} of {kind} ended without a result: {reason}")
                heard[key.data] = json.loads(line)
                selector.unregister(process.stdout)
    return [heard[rank] for rank in range(len(ranks))]


def _end(process: subprocess.Popen[str], *error: object) -> None:
    if error != (None, None, None):  # it would go on waiting for one that has failed
        process.terminate()
    try:
        process.communicate(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


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
