"""The messages between the head and a joined host by which its devices and the link to it are measured."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.hosts.descriptions import check_sentence
from tplaunch.worker.jobs.messages import StepSeconds, StepsJob

MAX_POINTS = 64  # of a job
MOST_SECONDS = 60.0  # that a point is repeated for
MOST_STEP_SECONDS = 1e6
TOKEN_BYTES = 16
MOST_SPEED = 1e18  # weights per second


@dataclass(frozen=True)
class AskSpeed:
    """Head: how fast is one of your devices, by its place in your list?"""

    device: int
    options: RankOptions

    def __post_init__(self) -> None:
        if not 0 <= self.device < MAX_RANKS:
            raise ValueError(f"the device {self.device}")


@dataclass(frozen=True)
class DeviceSpeed:
    """Joiner: this fast. Otherwise the sentence says why that is not known."""

    device: int
    weights_per_second: float
    fault: str = ""

    def __post_init__(self) -> None:
        check_sentence(self.fault)
        if not 0 <= self.device < MAX_RANKS:
            raise ValueError(f"the device {self.device}")
        if not (self.fault or 0 < self.weights_per_second < MOST_SPEED):
            raise ValueError(f"{self.weights_per_second} weights per second")


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
        check_sentence(self.fault)
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
