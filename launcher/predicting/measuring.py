"""Measures the work of a host's ranks: of this one's, or of one that has joined.

Samples of the model's own layers run on the devices, all ranks of the host at the same time, as they would.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.messages import Load
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.steps import TimeSteps
from tplaunch.launcher.model import Model
from tplaunch.launcher.predicting.samples import Kinds, Sample, layer_kinds, samples, work_of
from tplaunch.launcher.predicting.seconds import Seconds
from tplaunch.launcher.predicting.work import RankWork, Work
from tplaunch.worker.jobs.messages import StepPoint, StepSeconds, StepsJob

POINT_SECONDS = 0.5  # that a step is repeated for
# Bytes of a sample's layers of each kind: more than caches hold, or as many layers as the model has.
LEAST_BYTES, LEAST_BYTES_ON_CPU = 256e6, 48e6


@dataclass(frozen=True)
class Points:
    """The steps that a prediction is made of."""

    decode: StepPoint
    decode_far: StepPoint
    together: Mapping[int, StepPoint]  # by the number of sequences
    first_chunk: StepPoint
    last_chunk: StepPoint

    @property
    def decodes(self) -> tuple[StepPoint, ...]:
        return (self.decode, self.decode_far, *self.together.values())

    @property
    def chunks(self) -> tuple[StepPoint, ...]:
        return (self.first_chunk, self.last_chunk)


def measure_ranks(
    config: RunConfig,
    model: Model,
    limits: Limits,
    group_size: int,
    shares: Sequence[RankShare],
    choices: Sequence[DeviceChoice],
    points: Points,
    time_steps: TimeSteps,
    anew: bool = False,
) -> list[RankWork]:
    """Returns the work of those ranks of a group that are on one host. Raises RunError.

    time_steps: has that host's processes time them. anew: even if they are known from before.
    """
    kinds = layer_kinds(model.spec, model.tensors)
    least = _least_bytes(choices, group_size)
    run = _Run(config, model, limits, group_size, shares, choices, kinds, time_steps, anew)
    large, small = samples(kinds, least), samples(kinds, 0)
    if large == small:
        decodes = chunks = run.works(large, (*points.decodes, *points.chunks))
    else:  # a chunk computes more than it reads: small samples do
        decodes, chunks = run.works(large, points.decodes), run.works(small, points.chunks)
    together = {count: 2 + place for place, count in enumerate(points.together)}
    return [
        RankWork(
            decode[0],
            decode[1],
            {count: decode[place] for count, place in together.items()},
            chunk[-2],
            chunk[-1],
        )
        for decode, chunk in zip(decodes, chunks, strict=True)
    ]


def base_sample(model: Model, choices: Sequence[DeviceChoice], group_size: int) -> Sample:
    """Returns the smallest sample of a model that steps of so many ranks are measured on."""
    return samples(layer_kinds(model.spec, model.tensors), _least_bytes(choices, group_size))[0]


def _least_bytes(choices: Sequence[DeviceChoice], group_size: int) -> float:
    on_cpu = all(choice.on_cpu for choice in choices)
    return (LEAST_BYTES_ON_CPU if on_cpu else LEAST_BYTES) * group_size


@dataclass(frozen=True)
class _Run:
    config: RunConfig
    model: Model
    limits: Limits
    group_size: int
    shares: Sequence[RankShare]
    choices: Sequence[DeviceChoice]
    kinds: Kinds
    time_steps: TimeSteps
    anew: bool

    def works(self, of: Sequence[Sample], points: Sequence[StepPoint]) -> list[list[Work]]:
        """[ranks][points]"""
        found = [self._measure(sample, points) for sample in of]  # [samples][ranks][points]
        return [
            [
                work_of(
                    self.kinds,
                    [(sample, ranks[rank][place]) for sample, ranks in zip(of, found, strict=True)],
                )
                for place in range(len(points))
            ]
            for rank in range(len(self.choices))
        ]

    def _measure(self, sample: Sample, points: Sequence[StepPoint]) -> list[list[Seconds]]:
        """[ranks][points]: every rank in a process of its own, all at the same point at the same time."""
        if sys.stderr.isatty():
            names = ", ".join(choice.title for choice in self.choices)
            print(f"measuring {len(sample.layers)} layers on {names}", file=sys.stderr)
        jobs = [
            StepsJob(self._load(sample, rank), tuple(points), choice.takes_one_core, POINT_SECONDS, self.anew)
            for rank, choice in enumerate(self.choices)
        ]
        found = self.time_steps(self.config, self.choices, jobs)
        return [[_seconds(answer) for answer in rank] for rank in found]

    def _load(self, sample: Sample, rank: int) -> Load:
        options = replace(self.config.rank_options, timestamps=True)
        return Load(
            Origin(),
            sample.spec(self.model.spec),
            sample.tensors(self.model.tensors),
            replace(sample.share(self.shares[rank]), rank=rank, index=rank),
            Placement.single(self.group_size),
            self.limits,
            options,
            secrets.token_bytes(16),
        )


def _seconds(answer: StepSeconds) -> Seconds:
    part = min(1.0, max(0.0, answer.device_part))
    return Seconds(device=answer.seconds * part, dispatch=answer.seconds * (1 - part))
