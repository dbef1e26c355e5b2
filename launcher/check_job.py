"""Has a device's kernels checked by processes of its own: where a driver crashes, the next one goes on."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from tplaunch.coordinator.framing import MessageReader
from tplaunch.coordinator.wire import WireError
from tplaunch.launcher.device_job import JobConfig, job_command, job_file
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import ending
from tplaunch.running_clock import LOOK_SECONDS, RunningClock
from tplaunch.worker.jobs.messages import (
    CHECK_ANSWERS,
    CheckBegun,
    CheckFailed,
    CheckJob,
    CheckList,
    Failed,
)
from tplaunch.worker.process import wait_readable

SILENT_SECONDS = 180.0  # of one check: a slow driver compiles a kernel for most of a minute
MAX_FAILURES = 20  # of one device, after which there is nothing more to learn


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of one check of a kernel."""

    family: str
    variant: str
    kernel: str
    op: str
    error: float | None = None  # None for no number
    bound: float = 0.0
    problem: str = ""  # a sentence where it did not come to its end

    @property
    def is_right(self) -> bool:
        return not self.problem and self.error is not None and self.error <= self.bound


@dataclasses.dataclass
class DeviceReport:
    """All checks of a device. `error` says why there are no more."""

    index: int | None
    device: str
    driver: str = ""
    count: int = 0  # of checks that there should be
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)
    error: str = ""

    @property
    def is_right(self) -> bool:
        return not self.error and all(outcome.is_right for outcome in self.outcomes)


class ProcessEnded(Exception):
    """A device's process ended, or was ended, before it had told everything. The message says how."""


def check_device(
    config: JobConfig, choice: DeviceChoice, on_progress: Callable[[DeviceReport], None]
) -> DeviceReport:
    """Runs every check on a device. What can't be done is told in the report."""
    report = DeviceReport(choice.index, choice.name, choice.driver)
    for _ in range(MAX_FAILURES):
        begun = None
        try:
            for message in _messages(config, choice, len(report.outcomes)):
                begun = _heard(report, begun, message)
                on_progress(report)
            if begun is not None or not (report.count or report.error):
                raise ProcessEnded("its process ended as if all were well")  # a driver may do that
        except ProcessEnded as end:
            if begun is None:
                report.error = f"{choice.name} can't be checked: {end}"
            else:
                report.outcomes.append(dataclasses.replace(begun, problem=str(end)))
        if report.error or len(report.outcomes) == report.count:
            return report
    report.error = f"given up after {MAX_FAILURES} kernels that did not come to their end"
    return report


def _heard(report: DeviceReport, begun: Outcome | None, message: Any) -> Outcome | None:
    """Takes a message of a device's process into the report; returns the check that it is at."""
    if isinstance(message, Failed):
        report.error = message.error
    elif isinstance(message, CheckList):
        report.device, report.driver, report.count = message.device, message.driver, message.count
    elif isinstance(message, CheckBegun):
        return Outcome(message.family, message.variant, message.kernel, message.op)
    elif begun is None:
        raise ProcessEnded(f"its process sent {type(message).__name__} before CheckBegun")
    elif isinstance(message, CheckFailed):
        report.outcomes.append(dataclasses.replace(begun, problem=message.problem))
    else:
        report.outcomes.append(dataclasses.replace(begun, error=message.error, bound=message.bound))
    return None


def _messages(config: JobConfig, choice: DeviceChoice, start: int) -> Iterator[Any]:
    """Yields the answers of a process, from a check on. Raises ProcessEnded where it does not end well."""
    command, environment = job_command(choice)
    with tempfile.TemporaryFile() as log, job_file(CheckJob(start, config.rank_options)) as job:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=job,
            stdout=subprocess.PIPE,
            stderr=None if config.verbose else log,
        )
        assert process.stdout is not None
        reader = MessageReader(CHECK_ANSWERS)
        try:
            for data in _read(process.stdout):
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


def _read(pipe: IO[bytes]) -> Iterator[bytes]:
    """Yields bytes as they come. Raises ProcessEnded where there are none for too long."""
    clock = RunningClock()
    deadline = clock() + SILENT_SECONDS
    while True:
        while not wait_readable([pipe.fileno()], LOOK_SECONDS):
            if clock() > deadline:
                raise ProcessEnded(f"no answer within {SILENT_SECONDS:.0f} s")
        deadline = clock() + SILENT_SECONDS
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            return
        yield data


def _reason(code: int, log: IO[bytes]) -> str:
    log.seek(0)
    return f"its process {ending(code, log.read().decode(errors='replace'))}"
