"""Has two devices, or one twice, exchange as two ranks of a run do, each in a process of its own."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Iterator, Sequence

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.bench_ranks import BenchRanks
from tplaunch.launcher.checking.parts import OnBegun
from tplaunch.launcher.cores import rank_cores
from tplaunch.launcher.device_job import JobConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.machine import num_threads
from tplaunch.launcher.supervisor import driver_settings
from tplaunch.launcher.worker_command import job_words
from tplaunch.worker.jobs.figures import Figure, PairFigures, PairJob
from tplaunch.worker.jobs.messages import PAIR_ANSWERS, Meeting

STEP_SECONDS, SILENT_SECONDS = 10.0, 40.0  # of a step until it counts as hanging; of a stage
STAGES = {
    "share": "sharing of memory",
    "exchange.hosts": "exchange by the hosts",
    "exchange.device": "exchange by the devices",
}


def pair_figures(config: JobConfig, choices: Sequence[DeviceChoice], on_begun: OnBegun) -> Iterator[Figure]:
    """Yields the figures of two ranks on these devices; where a stage fails, one that says so is the last."""
    stages, current = list(STAGES), 0
    try:
        with BenchRanks("the exchange", SILENT_SECONDS, PAIR_ANSWERS) as ranks:
            _start(config, choices, ranks)
            options = dataclasses.replace(config.rank_options, timeout_seconds=STEP_SECONDS)
            ranks.tell(PairJob(secrets.token_bytes(16), options))
            endpoints = tuple(endpoint for meeting in ranks.hear(Meeting) for endpoint in meeting.endpoints)
            ranks.tell(Meeting(endpoints))
            while current < len(stages):
                on_begun(STAGES[stages[current]])
                yield from ranks.hear(PairFigures)[0].figures
                current += 1
    except RunError as error:
        stage = stages[current]
        yield Figure(stage, STAGES[stage], "failed", problem=str(error))


def _start(config: JobConfig, choices: Sequence[DeviceChoice], ranks: BenchRanks) -> None:
    all_cores = rank_cores(choices, sorted(os.sched_getaffinity(0)))
    for rank, (choice, cores) in enumerate(zip(choices, all_cores, strict=True)):
        words = (
            f"--rank={rank}",
            f"--device={choice.index}",
            f"--uuid={choice.uuid}",
            f"--cores={','.join(map(str, cores))}",
        )
        settings = driver_settings(choice, num_threads(len(cores), len(choices)))
        ranks.start([*job_words(), *words], settings, is_heard=config.verbose)
