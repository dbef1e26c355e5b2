"""Has a device's kernels checked by processes of its own: where a driver crashes, the next one goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

from tplaunch.launcher.device_job import JobConfig, job_command
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.endings import ending
from tplaunch.running_clock import LOOK_SECONDS, RunningClock

SILENT_SECONDS = 180.0  # of one check: a slow driver compiles a kernel for most of a minute
MAX_FAILURES = 20  # of one device, after which there is nothing more to learn


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one check of a kernel."""

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
            for line in _lines(config, choice, len(report.outcomes)):
                begun = _heard(report, begun, line)
                on_progress(report)
            if begun is not None or not report.count:
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


def _heard(report: DeviceReport, begun: Outcome | None, line: dict[str, Any]) -> Outcome | None:
    """Takes a line of a device's process into the report; returns the check that it is at."""
    if "begin" in line:
        return Outcome(line["family"], line["variant"], line["begin"], line["op"])
    if "count" in line:
        report.device, report.driver, report.count = line["device"], line["driver"], line["count"]
    elif begun is None:
        report.error = str(line["error"])
    elif "problem" in line:
        report.outcomes.append(dataclasses.replace(begun, problem=str(line["problem"])))
    else:
        report.outcomes.append(dataclasses.replace(begun, error=line["error"], bound=line["bound"]))
    return None


def _lines(config: JobConfig, choice: DeviceChoice, start: int) -> Iterator[dict[str, Any]]:
    """What a process says that begins with a check. Raises ProcessEnded where it does not end well."""
    command, environment = job_command(config, choice, "check", {"start": start})
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if config.verbose else log,
        )
        assert process.stdout is not None
        try:
            for line in _read(process.stdout):
                yield json.loads(line)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if code:
            raise ProcessEnded(_reason(code, log))


def _read(pipe: IO[bytes]) -> Iterator[bytes]:
    """Whole lines, as they come."""
    rest, clock = b"", RunningClock()
    deadline = clock() + SILENT_SECONDS
    while True:
        while not select.select([pipe], [], [], LOOK_SECONDS)[0]:
            if clock() > deadline:
                raise ProcessEnded(f"no answer within {SILENT_SECONDS:.0f} s")
        deadline = clock() + SILENT_SECONDS
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _reason(code: int, log: IO[bytes]) -> str:
    log.seek(0)
    return f"its process {ending(code, log.read().decode(errors='replace'))}"
