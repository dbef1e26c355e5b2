"""Has a device measured by a process of its own: a driver that crashes or hangs takes that process along."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import IO, Any, Protocol, TypeVar

from tplaunch.coordinator.framing import MessageReader, framed
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.coordinator.wire import WireError
from tplaunch.launcher.cores import rank_cores, usable_cores
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import ending
from tplaunch.launcher.job_process import run_job
from tplaunch.launcher.rank_words import rank_words
from tplaunch.launcher.supervisor import driver_settings
from tplaunch.launcher.worker_command import job_words
from tplaunch.worker.jobs.messages import Failed

A = TypeVar("A")


class JobConfig(Protocol):
    """How a job's process opens its device, and whether its log is shown."""

    @property
    def verbose(self) -> bool: ...

    @property
    def rank_options(self) -> RankOptions: ...


def run_device_job(
    config: JobConfig, choice: DeviceChoice, job: Any, answer: type[A], timeout_seconds: float
) -> A:
    """Returns what a process answers to one of worker.jobs.messages.JOBS. Raises RunError."""
    if sys.stderr.isatty():
        print(f"measuring {choice.name}", file=sys.stderr)
    command, environment = job_command(choice)
    try:
        with job_file(job) as file:
            done = run_job(command, timeout_seconds, environment, show_errors=config.verbose, job=file)
    except subprocess.TimeoutExpired:
        raise RunError(f"measuring {choice.name} was given up after {timeout_seconds:.0f} s") from None
    if done.returncode or not done.stdout:  # a driver may end its process as if all were well
        errors = (done.stderr or b"").decode(errors="replace")
        raise RunError(f"measuring {choice.name} {ending(done.returncode, errors)}")
    try:
        reader = MessageReader((answer, Failed))
        answers = list(reader.feed(done.stdout))
        reader.close()
    except WireError as error:
        raise RunError(f"measuring {choice.name} gave no answer that can be read: {error}") from error
    if len(answers) != 1:
        raise RunError(f"measuring {choice.name} gave {len(answers)} answers, where one was expected")
    if isinstance(answers[0], Failed):
        raise RunError(f"{choice.name} can't be measured: {answers[0].error}")
    assert isinstance(answers[0], answer)
    return answers[0]


def job_file(job: Any) -> IO[bytes]:
    """Returns a file with the job's message, to be a process's standard input: writing to it never waits."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(framed(job))
    file.seek(0)
    return file


def job_command(choice: DeviceChoice) -> tuple[list[str], dict[str, str]]:
    """Returns the command of a process with one device to itself, and its environment."""
    (cores,) = rank_cores([choice], usable_cores())
    command = [*job_words(), *rank_words(choice, cores, 1)]
    return command, {**os.environ, **driver_settings(choice, len(cores), 1)}
