"""Starts one worker process per device of a host, notices when one ends, and leaves none behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tplaunch.coordinator.direct_line import DirectLine
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.launcher.beats import Beats
from tplaunch.launcher.cores import rank_cores, usable_cores
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import end_reason
from tplaunch.launcher.logs import RunLogs
from tplaunch.launcher.machine import free_cache_bytes, num_threads
from tplaunch.launcher.rank_words import rank_words
from tplaunch.launcher.signals import held
from tplaunch.launcher.worker_command import WORKER_COMMAND
from tplaunch.worker.place import WorkerPlace, written_place
from tplaunch.worker.process import is_stopped, pidfd, wants_to_run

GRACE_SECONDS = 2.0  # between asking a worker to end and killing it
MIN_CACHE_BYTES = 64 << 20  # free, for a driver to keep its kernels there


class Shows(Protocol):
    """Says whether the workers' logs are shown."""

    @property
    def verbose(self) -> bool: ...


class Supervisor:
    """The worker processes of one host in one run. Use it as a context: they are gone when it ends."""

    def __init__(
        self,
        config: Shows,
        choices: Sequence[DeviceChoice],
        endpoint: str,
        check_open: Callable[[], None],
        *,
        ranks: Sequence[int] | None = None,
        place: WorkerPlace | None = None,
        silence_seconds: float | None = None,
        lines: Mapping[int, DirectLine] | None = None,
    ) -> None:
        """choices: the devices of this host's ranks. check_open: is called whenever the processes are looked
        at, and may raise what ends the run.

        ranks: theirs in the run, which count from 0 where nothing is said. place: what the workers of a run
        on several hosts are told by their own. silence_seconds: a worker that gives no sign of life for so
        long counts as dead; without it none is asked for any. lines: the workers' ends, by rank, which are
        closed here once they have them.
        """
        self._config, self._choices, self._endpoint = config, choices, endpoint
        self._ranks = tuple(range(len(choices))) if ranks is None else tuple(ranks)
        self._place = place
        self._check_open = check_open
        self._lines = lines or {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._descriptors: list[int] = []
        self._beats = None if silence_seconds is None else Beats(silence_seconds)

    def __enter__(self) -> Supervisor:
        with held():
            self._logs = RunLogs(self._config.verbose)
        try:
            with nullcontext() if self._place is None else written_place(self._place) as told:
                for index in range(len(self._choices)):
                    with held():
                        self._start(index, told)
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

    def end(self, *, at_once: bool, keep_logs: bool) -> None:
        """Ends the processes in place of the context's end, which may follow."""
        self._end(0.0 if at_once else GRACE_SECONDS, keep_logs=keep_logs)

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self._logs.folder

    def log_path(self, rank: int) -> Path:
        return self._logs.path(rank)

    def watch(self, excused: Collection[int]) -> None:
        """Raises WorkerError if a worker has ended or gives no sign of life, other than the excused ranks."""
        self._check_open()
        silent = self._silent()
        for index, process in enumerate(self._processes):
            rank, code = self._ranks[index], process.poll()
            how = silent.get(index) if code is None else f"ended: {end_reason(code)}"
            if how is not None and rank not in excused:
                raise WorkerError(rank, f"rank {rank} ({self._choices[index].name}) {how}")

    def _silent(self) -> dict[int, str]:
        """Returns what to say of each worker that counts as dead for its silence, and not as slow."""
        if self._beats is None:
            return {}
        pids = [process.pid for process in self._processes]
        silent = {index: how for index, how in self._beats.silent().items() if not wants_to_run(pids[index])}
        unbegun = {index: how for index, how in self._beats.unbegun().items() if is_stopped(pids[index])}
        return silent | unbegun

    def descriptors(self) -> Sequence[int]:
        """A pidfd of each worker, where these are to be had."""
        return self._descriptors

    def _start(self, index: int, told: int | None) -> None:
        """Starts a worker, by its place among this host's. told: the descriptor of a WorkerPlace."""
        choice, rank = self._choices[index], self._ranks[index]
        cores = rank_cores(self._choices, usable_cores())[index]
        command = [
            *WORKER_COMMAND,
            f"--rank={rank}",
            f"--connect={self._endpoint}",
            f"--parent={os.getpid()}",
            *rank_words(choice, cores, len(self._choices)),
        ]
        passed = []
        if told is not None:
            command.append(f"--place={told}")
            passed.append(told)
        if (line := self._lines.get(rank)) is not None:
            command.append(f"--line={line.fileno()}")
            passed.append(line.fileno())
        with nullcontext(()) if self._beats is None else self._beats.pipe() as kept:
            if self._beats is not None:
                command.append(f"--beats={kept[0]}:{self._beats.beat_seconds}")
            process = subprocess.Popen(
                command,
                env={**os.environ, **driver_settings(choice, len(cores), len(self._choices))},
                stdin=subprocess.DEVNULL,
                stdout=self._logs.output(rank),
                stderr=subprocess.STDOUT,
                pass_fds=(*kept, *passed),
            )
        if line is not None:
            line.close()
        self._processes.append(process)
        descriptor = pidfd(process.pid)
        self._descriptors += () if descriptor is None else (descriptor,)
        self._logs.follow(rank, process)

    def _stop(self, grace_seconds: float) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
        if self._beats is not None:
            self._beats.close()
        deadline = time.monotonic() + grace_seconds
        for process in self._processes:
            _wait(process, deadline)
        for process in self._processes:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # one that was stopped would take no notice
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


def driver_settings(choice: DeviceChoice, num_cores: int, num_ranks: int) -> dict[str, str]:
    """Environment variables for drivers and libraries of a rank that may use so many cores.

    Their thread pools are no larger than what can run at once: they would take turns. Their caches of kernels
    are left out where the disk is full: Mesa maps the index of its cache, and writing there is SIGBUS then.
    """
    count = "1" if choice.on_cpu else str(num_threads(num_cores, num_ranks))
    settings = {"OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    if choice.on_cpu:
        settings["LP_NUM_THREADS"] = "0"
    free = free_cache_bytes()
    if free is not None and free < MIN_CACHE_BYTES:
        settings |= {"MESA_SHADER_CACHE_DISABLE": "true", "__GL_SHADER_DISK_CACHE": "0"}
    return settings
