"""Has two devices, or one twice, exchange as two ranks of a run do, each in a process of its own."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator, Sequence

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.bench_ranks import BenchRanks, start_on_devices
from tplaunch.launcher.checking.parts import OnBegun
from tplaunch.launcher.device_job import JobConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.worker.jobs.figures import Figure, PairFigures, PairJob
from tplaunch.worker.jobs.messages import PAIR_ANSWERS, Begin

STEP_SECONDS, SILENT_SECONDS = 10.0, 60.0  # of a step until it counts as hanging; of a stage
STAGES = {
    "share": "sharing of memory",
    "exchange.hosts": "exchange by the hosts",
    "exchange.moved": "exchange of a prompt's sums",
    "exchange.device": "exchange by the devices",
}


def pair_figures(config: JobConfig, choices: Sequence[DeviceChoice], on_begun: OnBegun) -> Iterator[Figure]:
    """Yields the figures of two ranks on these devices; where a stage fails, one that says so is the last."""
    stages, current = list(STAGES), 0
    try:
        with BenchRanks("the exchange", SILENT_SECONDS, PAIR_ANSWERS) as ranks:
            start_on_devices(ranks, choices, is_heard=config.verbose)
            options = dataclasses.replace(config.rank_options, timeout_seconds=STEP_SECONDS)
            ranks.tell(PairJob(secrets.token_bytes(16), options))
            ranks.meet()
            while current < len(stages):
                on_begun(STAGES[stages[current]])
                ranks.tell(Begin())  # else the next stage's figures may come together with these
                yield from ranks.hear(PairFigures)[0].figures
                current += 1
    except RunError as error:
        stage = stages[current]
        yield Figure(stage, STAGES[stage], "failed", problem=str(error))
