"""Times steps of ranks on this host's devices, each rank in a process of its own, all at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeAlias

from tplaunch.launcher.bench_ranks import BenchRanks
from tplaunch.launcher.device_job import JobConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.machine import num_threads
from tplaunch.launcher.supervisor import driver_settings, rank_cores
from tplaunch.launcher.worker_command import job_words
from tplaunch.worker.jobs.messages import STEPS_ANSWERS, Begin, Prepared, StepSeconds, StepsJob

TIMEOUT_SECONDS = 300.0  # of a rank that says nothing
# time_steps(), or another host's: [ranks][points]
TimeSteps: TypeAlias = Callable[
    [JobConfig, Sequence[DeviceChoice], Sequence[StepsJob]], Sequence[Sequence[StepSeconds]]
]


def time_steps(
    config: JobConfig, choices: Sequence[DeviceChoice], jobs: Sequence[StepsJob]
) -> list[list[StepSeconds]]:
    """Returns the times as [ranks][points]; a point's are of all ranks together. Raises RunError.

    choices: the device of each rank. jobs: one for each, of the same number of points.
    """
    with BenchRanks("the steps that are measured", TIMEOUT_SECONDS, STEPS_ANSWERS) as ranks:
        all_cores = rank_cores(choices, sorted(os.sched_getaffinity(0)))
        for choice, cores in zip(choices, all_cores, strict=True):
            threads = num_threads(len(cores), len(choices))
            words = (
                f"--device={'cpu' if choice.index is None else choice.index}",
                f"--uuid={choice.uuid}",
                f"--cores={','.join(map(str, cores))}",
            )
            settings = driver_settings(choice, threads)
            ranks.start([*job_words(), *words], settings, is_heard=config.verbose)
        ranks.tell_each(jobs)
        ranks.hear(Prepared)
        taken = []  # [points][ranks]
        for _ in jobs[0].points:
            ranks.tell(Begin())
            taken.append(ranks.hear(StepSeconds))
    return [list(rank) for rank in zip(*taken, strict=True)]
