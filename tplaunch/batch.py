"""Prompts that are computed together while one thread waits for all of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tplaunch.coordinator.serving.driver import Driver, Job, Listener
from tplaunch.coordinator.serving.request import Event, Reading, Request, RequestError
from tplaunch.coordinator.serving.sampling.constraint import Constraint
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.launcher.keywords import in_keywords
from tplaunch.progress_bar import REFRESH_SECONDS, progress_bar
from tplaunch.prompts import which


class Batch(Listener):
    """Jobs of which one thread waits for the last."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.failure: tuple[Job, Exception] | None = None
        self._open: set[Job] = set()
        self._is_over = threading.Event()

    @property
    def num_open(self) -> int:
        """The number of jobs that are not finished."""
        return len(self._open)

    def expect(self, jobs: Sequence[Job]) -> None:
        """Takes the jobs that it will hear of, before they are submitted."""
        self._open.update(jobs)

    def take(self, events: Sequence[tuple[Job, Event]]) -> None:
        self.num_tokens += len(events)
        for job, event in events:
            if event.finish_reason is not None and event.request.is_finished:
                self._open.discard(job)
        if not self._open:
            self._is_over.set()

    def fail(self, job: Job, error: Exception) -> None:
        self.failure = self.failure or (job, error)
        self._is_over.set()

    def wait(self, seconds: float | None) -> bool:
        """Tells whether there is nothing left to wait for, within so many seconds."""
        return self._is_over.wait(seconds)


def compute(
    driver: Driver,
    prompts: Sequence[Sequence[int]],
    params: Sequence[SamplingParams],
    *,
    is_only: bool = False,
    readings: Sequence[Reading] | None = None,
    constraints: Sequence[Constraint | None] | None = None,
    shows_progress: bool = False,
) -> list[Request]:
    """Returns the requests of all prompts, finished, in their order. Ctrl-C ends them.

    is_only: a sentence about a prompt need not say which. readings: of each prompt, where they are only read.
    Raises RequestError before anything is computed where a prompt can't be, RunError and ClosedError.
    """
    if not prompts:
        return []
    batch = Batch()
    wanted: Sequence[Reading | None] = readings or [None] * len(prompts)
    jobs = [
        Job(prompt, of_prompt, batch, reading=reading, constraint=constraint)
        for prompt, of_prompt, reading, constraint in zip(
            prompts, params, wanted, constraints or [None] * len(prompts), strict=True
        )
    ]
    batch.expect(jobs)
    try:
        with progress_bar(len(prompts), is_wanted=shows_progress) as show:
            driver.submit(jobs, together=True)
            while not batch.wait(None if show is None else REFRESH_SECONDS):
                if show is not None:
                    show(len(jobs) - batch.num_open, batch.num_tokens)
            if show is not None:
                show(len(jobs) - batch.num_open, batch.num_tokens)
    except BaseException:  # Ctrl-C above all
        driver.cancel(jobs)
        raise
    if batch.failure is not None:
        job, error = batch.failure
        if isinstance(error, RequestError):
            raise RequestError(which(jobs.index(job), is_only=is_only) + in_keywords(str(error))) from error
        raise error
    return [job.request for job in jobs if job.request is not None]
