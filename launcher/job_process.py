"""Runs a worker's process to its end."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

from tplaunch.running_clock import LOOK_SECONDS, RunningClock


def run_job(
    command: Sequence[str],
    timeout_seconds: float,  # of the time in which this process runs
    env: Mapping[str, str] | None = None,
    show_errors: bool = False,
    job: IO[bytes] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Runs a worker's process to its end, with a file as its standard input.

    Raises TimeoutExpired, once it is killed.
    """
    errors = None if show_errors else subprocess.PIPE
    clock = RunningClock()
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL if job is None else job,
        stdout=subprocess.PIPE,
        stderr=errors,
    ) as process:
        try:
            while True:
                try:
                    output = process.communicate(timeout=LOOK_SECONDS)
                    return subprocess.CompletedProcess(command, process.returncode, *output)
                except subprocess.TimeoutExpired:
                    if clock() > timeout_seconds:
                        raise
        except BaseException:
            process.kill()
            raise
