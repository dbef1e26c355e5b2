"""Has a device's kernels checked by processes of its own: where a driver crashes, the next one goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tplaunch.launcher.device_job import JobConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.job_answers import ProcessEnded, job_answers
from tplaunch.worker.jobs.messages import (
    CHECK_ANSWERS,
    CheckBegun,
    CheckFailed,
    CheckJob,
    CheckList,
    Failed,
)

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
    problem: str = ""  # a sentence where it did not come to its end, or was never compiled

    @property
    def is_right(self) -> bool:
        return not self.problem and self.error is not None and self.error <= self.bound


@dataclasses.dataclass
class DeviceReport:
    """All checks of a device. `error` says why there are no more."""

    index: int | None  # None for processors
    word: str  # as --devices takes it
    device: str
    driver: str = ""
    count: int = 0  # of checks that there should be
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)
    error: str = ""

    @property
    def is_right(self) -> bool:
        return not self.error and all(outcome.is_right for outcome in self.outcomes)


def check_device(
    config: JobConfig,
    choice: DeviceChoice,
    report: DeviceReport,
    on_progress: Callable[[DeviceReport], None],
) -> None:
    """Runs every check on a device, and adds to the report, also what can't be done.

    The first process compiles kernels ahead of their checks. Where that one crashes, the next ones go on
    without, so that the kernel is blamed that did it.
    """
    compiles_ahead, num_failures = True, 0
    while num_failures < MAX_FAILURES:
        begun = None
        try:
            job = CheckJob(len(report.outcomes), compiles_ahead, config.rank_options)
            for message in job_answers(config, choice, job, CHECK_ANSWERS, SILENT_SECONDS):
                begun = _heard(report, begun, message)
                on_progress(report)
            if begun is not None or not (report.count or report.error):
                raise ProcessEnded("its process ended as if all were well")  # a driver may do that
        except ProcessEnded as end:
            if compiles_ahead:
                compiles_ahead = False
                continue
            if begun is None:
                report.error = f"{choice.name} can't be checked: {end}"
            else:
                report.outcomes.append(dataclasses.replace(begun, problem=str(end)))
        if report.error or len(report.outcomes) == report.count:
            return
        num_failures += 1
    report.error = f"given up after {MAX_FAILURES} kernels that did not come to their end"


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
        report.outcomes.append(
            dataclasses.replace(begun, error=message.error, bound=message.bound, problem=message.refusal)
        )
    return None
