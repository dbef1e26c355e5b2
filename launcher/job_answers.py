"""Hears a process with a device to itself that tells of one thing after another, until it ends or crashes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

from tplaunch.coordinator.framing import MessageReader
from tplaunch.coordinator.wire import WireError
from tplaunch.launcher.device_job import JobConfig, job_command, job_file
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import ending
from tplaunch.running_clock import LOOK_SECONDS, RunningClock
from tplaunch.worker.process import wait_readable


class ProcessEnded(Exception):
    """A device's process ended, or was ended, before it had told everything. The message says how."""


def job_answers(
    config: JobConfig, choice: DeviceChoice, job: Any, kinds: Iterable[type], silent_seconds: float
) -> Iterator[Any]:
    """Yields the answers of a process with a device to itself, as they come.

    kinds: of its messages. silent_seconds: it may say nothing for so long, and is ended then. Raises
    ProcessEnded where it does not end well.
    """
    command, environment = job_command(choice)
    with tempfile.TemporaryFile() as log, job_file(job) as told:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=told,
            stdout=subprocess.PIPE,
            stderr=None if config.verbose else log,
        )
        assert process.stdout is not None
        reader = MessageReader(tuple(kinds))
        try:
            for data in _read(process.stdout, silent_seconds):
                yield from reader.feed(data)
            code = process.wait()
            if code:  # it may have left half a message
                raise ProcessEnded(_reason(code, log))
            reader.close()
        except WireError as error:
            raise ProcessEnded(f"its process gave no answer that can be read: {error}") from error
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _read(pipe: IO[bytes], silent_seconds: float) -> Iterator[bytes]:
    """Yields bytes as they come. Raises ProcessEnded where there are none for too long."""
    clock = RunningClock()
    deadline = clock() + silent_seconds
    while True:
        while not wait_readable([pipe.fileno()], LOOK_SECONDS):
            if clock() > deadline:
                raise ProcessEnded(f"no answer within {silent_seconds:.0f} s")
        deadline = clock() + silent_seconds
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            return
        yield data


def _reason(code: int, log: IO[bytes]) -> str:
    log.seek(0)
    return f"its process {ending(code, log.read().decode(errors='replace'))}"
