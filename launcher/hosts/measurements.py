"""The messages between the head and a joined host by which a prediction is measured."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.hosts.descriptions import check_text
from tplaunch.worker.jobs.messages import StepSeconds, StepsJob

MAX_POINTS = 64  # of a job
MOST_SECONDS = 60.0  # that a point is repeated for
MOST_STEP_SECONDS = 1e6
TOKEN_BYTES = 16


@dataclass(frozen=True)
class AskSteps:
    """Head: have ranks on these of your devices, by their places in your list, time steps together.

    Their weights are made up: no file is read.
    """

    number: int  # of this wish; the answer has it, too
    devices: tuple[int, ...]
    jobs: tuple[StepsJob, ...]  # one for each

    def __post_init__(self) -> None:
        if not 1 <= len(self.devices) == len(self.jobs) <= MAX_RANKS:
            raise ValueError(f"{len(self.jobs)} jobs for {len(self.devices)} devices")
        if not all(0 <= device < MAX_RANKS for device in self.devices):
            raise ValueError(f"the devices {self.devices}")
        for job in self.jobs:
            if job.load.origin.parts:
                raise ValueError("a model of files, where weights are made up")
            if not 1 <= len(job.points) == len(self.jobs[0].points) <= MAX_POINTS:
                raise ValueError(f"{len(job.points)} steps to be timed")
            if not 0 <= job.seconds <= MOST_SECONDS:
                raise ValueError(f"steps that are timed for {job.seconds} s")


@dataclass(frozen=True)
class StepsTimed:
    """Joiner: they took this, as [ranks][points]. Otherwise the sentence says why that is not known."""

    number: int
    taken: tuple[tuple[StepSeconds, ...], ...]
    fault: str = ""

    def __post_init__(self) -> None:
        check_text(self.fault)
        for step in (step for rank in self.taken for step in rank):
            if not (0 <= step.seconds < MOST_STEP_SECONDS and 0 <= step.device_part < MOST_STEP_SECONDS):
                raise ValueError(f"a step of {step.seconds} s")


@dataclass(frozen=True)
class AskEcho:
    """Head: dial this port of mine by this name, and send back what comes there."""

    port: int
    token: bytes

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536 or len(self.token) != TOKEN_BYTES:
            raise ValueError(f"the port {self.port}, by a name of {len(self.token)} bytes")
