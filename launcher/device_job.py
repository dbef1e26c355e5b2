"""Has a device measured by a process of its own: a driver that crashes or hangs takes that process along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Protocol

from tplaunch.coordinator.options import RankOptions
from tplaunch.launcher.config import RunError
from tplaunch.launcher.devices import DeviceChoice, run_job
from tplaunch.launcher.endings import ending
from tplaunch.launcher.machine import num_threads
from tplaunch.launcher.supervisor import driver_settings, rank_cores
from tplaunch.launcher.worker_command import job_words


class JobConfig(Protocol):
    """How a job's process opens its device, and whether its log is shown."""

    @property
    def verbose(self) -> bool: ...

    @property
    def rank_options(self) -> RankOptions: ...


def run_device_job(
    config: JobConfig, choice: DeviceChoice, option: str, job: Any, timeout_seconds: float
) -> dict[str, Any]:
    """What the process prints for `--option=job`. Raises RunError."""
    if sys.stderr.isatty():
        print(f"measuring {choice.name}", file=sys.stderr)
    command, environment = job_command(config, choice, option, job)
    try:
        done = run_job(command, timeout_seconds, environment, show_errors=config.verbose)
    except subprocess.TimeoutExpired:
        raise RunError(f"measuring {choice.name} was given up after {timeout_seconds:.0f} s") from None
    if done.returncode or not done.stdout:  # a driver may end its process as if all were well
        raise RunError(f"measuring {choice.name} {ending(done.returncode, done.stderr or '')}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise RunError(f"{choice.name} can't be measured: {found['error']}")
    return found


def job_command(
    config: JobConfig, choice: DeviceChoice, option: str, job: Any
) -> tuple[list[str], dict[str, str]]:
    """The command of a process with one device to itself, and its environment."""
    (cores,) = rank_cores([choice], sorted(os.sched_getaffinity(0)))
    command = [
        *job_words(),
        f"--{option}={json.dumps(job)}",
        f"--device={'cpu' if choice.index is None else choice.index}",
        f"--uuid={choice.uuid}",
        f"--cores={','.join(map(str, cores))}",
        f"--without={','.join(config.rank_options.without)}",
        *(["--validate"] if config.rank_options.validate else []),
    ]
    return command, {**os.environ, **driver_settings(choice, num_threads(len(cores), 1))}
