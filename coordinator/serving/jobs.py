"""The jobs of a driver, and those who hear what becomes of them."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.serving.failures import ClosedError, RunError
from tplaunch.coordinator.serving.request import Event, Reading, Request
from tplaunch.coordinator.serving.sampling.constraint import Constraint
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams


class Listener(abc.ABC):
    """Hears what becomes of jobs. It is called in the driver's thread, and must return at once."""

    def begin(self, job: Job) -> None:  # noqa: B027 - not all need to know
        """Hears that a job can be computed, and waits for its turn from now on."""

    @abc.abstractmethod
    def take(self, events: Sequence[tuple[Job, Event]]) -> None:
        """Takes all that one step has brought for jobs of this listener."""

    @abc.abstractmethod
    def fail(self, job: Job, error: Exception) -> None:
        """Takes the reason why nothing more comes of a job: RequestError, RunError or ClosedError."""


@dataclass(eq=False)
class Job:
    """A prompt of token ids, what to make of it, and who hears of it."""

    prompt: Sequence[int]
    params: SamplingParams
    listener: Listener
    id: str | None = None  # of the request; None for one that is made up
    reading: Reading | None = None  # the prompt is only read, and nothing is generated
    constraint: Constraint | None = None  # rules out tokens of each text
    request: Request | None = None  # is set before the first event


@dataclass(frozen=True)
class Submit:
    """Asks the driver's thread to compute jobs, all of them or none where they belong together."""

    jobs: Sequence[Job]
    together: bool


@dataclass(frozen=True)
class Cancel:
    """Asks the driver's thread to end jobs."""

    jobs: Sequence[Job]


def fail(job: Job, error: Exception) -> None:
    """Tells the listener of a job why nothing more comes of it."""
    with contextlib.suppress(Exception):  # of a listener that has gone
        job.listener.fail(job, error)


def told(error: BaseException) -> Exception:
    """Returns an exception for one of those who wait: each raises its own, with a traceback of its own."""
    if isinstance(error, ClosedError):
        return ClosedError(str(error))
    told = RunError(str(error) if isinstance(error, RunError) else repr(error))
    told.__cause__ = error
    return told
