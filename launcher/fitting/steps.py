"""Times steps of ranks on this host's devices, each rank in a process of its own, all at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TypeAlias

from tplaunch.coordinator.framing import framed
from tplaunch.launcher.bench_ranks import BenchRanks, start_on_devices
from tplaunch.launcher.device_job import JobConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.kept import kept_numbers
from tplaunch.worker.jobs.messages import STEPS_ANSWERS, Begin, Prepared, StepSeconds, StepsJob

PARTS = tuple(field.name for field in fields(StepSeconds))
TIMEOUT_SECONDS = 300.0  # of a rank that says nothing
# time_steps(), or another host's: [ranks][points]
TimeSteps: TypeAlias = Callable[
    [JobConfig, Sequence[DeviceChoice], Sequence[StepsJob]], Sequence[Sequence[StepSeconds]]
]


def time_steps(
    config: JobConfig, choices: Sequence[DeviceChoice], jobs: Sequence[StepsJob]
) -> list[list[StepSeconds]]:
    """Returns the times as [ranks][points], those of before where there are any. Raises RunError.

    A point's are of all ranks together. choices: the device of each rank. jobs: one for each, of the same
    number of points.
    """
    whats = [framed(replace(job, load=replace(job.load, token=b""), anew=False)) for job in jobs]
    anew = any(job.anew for job in jobs)
    numbers = kept_numbers(
        choices, b"".join(whats), anew, lambda: _numbers(measured_steps(config, choices, jobs))
    )
    return [
        [
            StepSeconds(*(numbers.get(_name(rank, place, part)) or 0.0 for part in PARTS))
            for place in range(len(jobs[0].points))
        ]
        for rank in range(len(jobs))
    ]


def _numbers(taken: Sequence[Sequence[StepSeconds]]) -> dict[str, float]:
    """The same as a table of numbers."""
    return {
        _name(rank, place, part): getattr(step, part)
        for rank, steps in enumerate(taken)
        for place, step in enumerate(steps)
        for part in PARTS
    }


def _name(rank: int, place: int, part: str) -> str:
    return f"rank {rank}, point {place}, {part}"


def measured_steps(
    config: JobConfig, choices: Sequence[DeviceChoice], jobs: Sequence[StepsJob]
) -> list[list[StepSeconds]]:
    """Returns the same as they are now. Raises RunError."""
    with BenchRanks("the steps that are measured", TIMEOUT_SECONDS, STEPS_ANSWERS) as ranks:
        start_on_devices(ranks, choices, is_heard=config.verbose)
        ranks.tell_each(jobs)
        ranks.hear(Prepared)
        taken = []  # [points][ranks]
        for _ in jobs[0].points:
            ranks.tell(Begin())
            taken.append(ranks.hear(StepSeconds))
    return [list(rank) for rank in zip(*taken, strict=True)]
