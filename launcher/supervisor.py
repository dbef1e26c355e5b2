"""Starts one worker process per device, notices when one ends, and leaves none behind."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType

from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import end_reason
from tplaunch.launcher.logs import RunLogs
from tplaunch.launcher.machine import free_cache_bytes, num_threads
from tplaunch.launcher.signals import held
from tplaunch.launcher.worker_command import WORKER_COMMAND
from tplaunch.worker.process import pidfd

GRACE_SECONDS = 2.0  # between asking a worker to end and killing it
MIN_CACHE_BYTES = 64 << 20  # free, for a driver to keep its kernels there


class Supervisor:
    """The worker processes of one run. Use it as a context: they are gone when it ends."""

    def __init__(
        self,
        config: RunConfig,
        choices: Sequence[DeviceChoice],
        endpoint: str,
        check_open: Callable[[], None],
    ) -> None:
        """check_open: is called whenever the processes are looked at, and may raise what ends the run."""
        self._config, self._choices, self._endpoint = config, choices, endpoint
        self._check_open = check_open
        self._processes: list[subprocess.Popen[bytes]] = []
        self._descriptors: list[int] = []

    def __enter__(self) -> Supervisor:
        with held():
            self._logs = RunLogs(self._config.verbose)
        try:
            for rank in range(len(self._choices)):
                with held():
                    self._start(rank)
        except BaseException:
            self._end(GRACE_SECONDS, keep_logs=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # After an orderly shutdown the workers are about to end by themselves; after an error they are not.
        self._end(GRACE_SECONDS if kind is None else 0.0, keep_logs=isinstance(error, WorkerError))

    def _end(self, grace_seconds: float, keep_logs: bool) -> None:
        with held():
            self._stop(grace_seconds)
            self._logs.close(keep=keep_logs)

    def log_path(self, rank: int) -> Path:
        return self._logs.path(rank)

    def watch(self, excused: Collection[int]) -> None:
        """Raises WorkerError if a worker has ended, other than the excused ranks."""
        self._check_open()
        for rank, process in enumerate(self._processes):
            code = process.poll()
            if code is not None and rank not in excused:
                name = self._choices[rank].name
                raise WorkerError(rank, f"rank {rank} ({name}) ended: {end_reason(code)}")

    def descriptors(self) -> Sequence[int]:
        """A pidfd of each worker, where these are to be had."""
        return self._descriptors

    def _start(self, rank: int) -> None:
        choice = self._choices[rank]
        cores = rank_cores(self._choices, sorted(os.sched_getaffinity(0)))[rank]
        command = [
            *WORKER_COMMAND,
            f"--rank={rank}",
            f"--connect={self._endpoint}",
            f"--parent={os.getpid()}",
            f"--device={'cpu' if choice.index is None else choice.index}",
            f"--uuid={choice.uuid}",
            f"--cores={','.join(map(str, cores))}",
        ]
        process = subprocess.Popen(
            command,
            env={**os.environ, **driver_settings(choice, num_threads(len(cores), len(self._choices)))},
            stdin=subprocess.DEVNULL,
            stdout=self._logs.output(rank),
            stderr=subprocess.STDOUT,
        )
        self._processes.append(process)
        descriptor = pidfd(process.pid)
        self._descriptors += () if descriptor is None else (descriptor,)
        self._logs.follow(rank, process)

    def _stop(self, grace_seconds: float) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
        deadline = time.monotonic() + grace_seconds
        for process in self._processes:
            _wait(process, deadline)
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._processes:
            if not _wait(process, deadline):
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def rank_cores(choices: Sequence[DeviceChoice], cores: Sequence[int]) -> list[list[int]]:
    """The cores of each rank: disjoint while there are enough, shared in turn when there are not.

    A rank whose device is the CPU itself gets one core: lavapipe then runs in the thread that submits
    (LP_NUM_THREADS=0), which makes a dispatch 90 times cheaper than waking its thread pool.
    """
    num_ranks = len(choices)
    if len(cores) < num_ranks:
        return [[cores[rank % len(cores)]] for rank in range(num_ranks)]
    cuts = [len(cores) * rank // num_ranks for rank in range(num_ranks + 1)]
    shares = [list(cores[start:stop]) for start, stop in itertools.pairwise(cuts)]
    return [share[:1] if choice.on_cpu else share for choice, share in zip(choices, shares, strict=True)]


def driver_settings(choice: DeviceChoice, threads: int) -> dict[str, str]:
    """Environment variables for drivers and libraries.

    Their thread pools are no larger than what can run at once: they would take turns. Their caches of kernels
    are left out where the disk is full: Mesa maps the index of its cache, and writing there is SIGBUS then.
    """
    count = str(threads)
    settings = {"OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    if choice.on_cpu:
        settings["LP_NUM_THREADS"] = "0"
    free = free_cache_bytes()
    if free is not None and free < MIN_CACHE_BYTES:
        settings |= {"MESA_SHADER_CACHE_DISABLE": "true", "__GL_SHADER_DISK_CACHE": "0"}
    return settings
