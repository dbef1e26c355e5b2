"""Has speeds of a device measured part by part, each by a process: where one crashes, the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tplaunch.launcher.device_job import JobConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.job_answers import ProcessEnded, job_answers
from tplaunch.worker.jobs.figures import COPIES, PRODUCTS, WAITS, Figure, FigureBegun, PartJob
from tplaunch.worker.jobs.messages import PART_ANSWERS, Failed

BUDGETS = {WAITS: 8.0, COPIES: 10.0, PRODUCTS: 45.0}  # seconds, after which a part begins nothing more
SILENT_SECONDS = 60.0  # of one number: a slow driver compiles a kernel for most of a minute

OnBegun = Callable[[str], None]  # told what is measured now, in words


def part_figures(config: JobConfig, choice: DeviceChoice, on_begun: OnBegun) -> Iterator[Figure]:
    """Yields the figures of every part; of one that fails those that it had, and one that says so."""
    for part in (COPIES, PRODUCTS) if choice.has_threads else BUDGETS:
        yield from _figures_of(config, choice, part, on_begun)


def _figures_of(config: JobConfig, choice: DeviceChoice, part: str, on_begun: OnBegun) -> Iterator[Figure]:
    job, begun, count = PartJob(part, BUDGETS[part], config.rank_options), FigureBegun(part, part), 0
    try:
        for message in job_answers(config, choice, job, PART_ANSWERS, SILENT_SECONDS):
            if isinstance(message, Failed):
                raise ProcessEnded(message.error)
            if isinstance(message, FigureBegun):
                begun = message
                on_begun(begun.what)
            else:
                count += 1
                begun = FigureBegun(part, part)
                yield message
        if begun.key != part or not count:  # a driver may do that
            raise ProcessEnded("its process ended as if all were well")
    except ProcessEnded as end:
        yield Figure(begun.key, begun.what, "failed", problem=str(end))
