"""Predicts all ways to run a model on hosts: finds shares, has them measured or described, and adds up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.split.exchanges import num_all_reduces
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import RankShare, padded
from tplaunch.launcher.config import EXPERTS_APART, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.context_fit import Fitting
from tplaunch.launcher.fitting.experts_apart import check_experts_apart
from tplaunch.launcher.fitting.fit import rank_needs
from tplaunch.launcher.fitting.steps import TimeSteps, time_steps
from tplaunch.launcher.model import Model
from tplaunch.launcher.predicting.cluster import Cluster, Cost
from tplaunch.launcher.predicting.described import DescribedDevice, described_work
from tplaunch.launcher.predicting.links import Link
from tplaunch.launcher.predicting.machine import (
    BETWEEN,
    INSIDE,
    all_reduce_cost,
    coordinator_seconds,
    sample_probe,
    tiny_probe,
)
from tplaunch.launcher.predicting.measuring import Points, base_sample, measure_ranks
from tplaunch.launcher.predicting.model import Prediction, Shape, predict
from tplaunch.launcher.predicting.room import Room
from tplaunch.launcher.predicting.shares import (
    choice_of,
    group_plan,
    has_experts_apart,
    largest_shares,
    on_processor,
)
from tplaunch.launcher.predicting.wanted import Wanted
from tplaunch.launcher.predicting.ways import Way, ways
from tplaunch.launcher.predicting.work import RankWork
from tplaunch.launcher.processors import NUMPY
from tplaunch.worker.jobs.messages import StepPoint

NUM_SEQUENCES = 4  # that are decoded together
USUAL_CONTEXT = 4096  # where the user does not name one
START = 32  # the position of a token at the beginning of a context: the middle one of the first 64
NO_LINK = Link(0.0, float("inf"))


@dataclass(frozen=True)
class Foreseen:
    """All ways, and what their prediction comes from."""

    predictions: tuple[Prediction, ...]
    lacks: tuple[str, ...]  # by prediction: why it does not fit; empty where it does
    works: tuple[dict[int, RankWork], ...]  # by prediction, by the cluster's rank
    cluster: Cluster
    shape: Shape
    limits: Limits


def foresee(config: RunConfig, model: Model, wanted: Wanted, steps: TimeSteps = time_steps) -> Foreseen:
    """Measures what is there, and predicts. Raises UsageError, PlanError and RunError.

    steps: has steps timed on the host that their devices are on.
    """
    return _Foreseeing(config, model, wanted, steps).foreseen()


class _Foreseeing:
    def __init__(self, config: RunConfig, model: Model, wanted: Wanted, steps: TimeSteps) -> None:
        context = config.context_length or min(model.spec.context_length, USUAL_CONTEXT)
        parallel = max(config.parallel, NUM_SEQUENCES)
        # Stages are this module's own: what it plans and measures are groups, with all layers.
        self._config = replace(
            config, context_length=context, parallel=parallel, pipeline=1, pipeline_split=None
        )
        self._model, self._wanted, self._time_steps = model, wanted, steps
        check_experts_apart(self._config, model.spec, [choice_of(device) for device in wanted.devices])
        num_layers = model.spec.num_layers
        if (wanted.pipeline or 1) > num_layers:
            raise UsageError(
                f"--pipeline {wanted.pipeline}: the model has {num_layers} layers, one a stage at least"
            )
        found = ways(wanted.by_rank, wanted.pipeline)
        self._ways = [way for way in found if way.placement.num_stages <= num_layers]
        self._limits = self._choose_limits(context)
        self._points = self._choose_points()
        self._measured: dict[tuple[int, int, tuple[str, ...]], list[RankWork]] = {}

    def foreseen(self) -> Foreseen:
        shape = self._shape()
        cluster = self._cluster(shape)
        room = Room(self._config, self._model, self._limits, self._wanted.hosts)
        works = [self._works(way) for way in self._ways]
        predictions = [
            predict(way, shape, cluster, found) for way, found in zip(self._ways, works, strict=True)
        ]
        lacks = [room.lack(found, self._group_plan(found.way)) for found in predictions]
        return Foreseen(tuple(predictions), tuple(lacks), tuple(works), cluster, shape, self._limits)

    def _choose_limits(self, context: int) -> Limits:
        devices = self._wanted.devices
        plan = self._plan(tuple(range(len(devices))))
        choices = [choice_of(device) for device in devices]
        needs = rank_needs(self._model.spec, self._model.tensors, plan, choices)
        fitting = Fitting(self._config, needs, (), choices)
        return fitting.limits(context, further=self._config.parallel - 1)

    def _choose_points(self) -> Points:
        limits, prompt = self._limits, self._wanted.prompt_tokens
        context = limits.context_length
        rows = max(1, min(limits.max_rows, prompt, context))
        self._num_chunks = max(1, min(prompt, context) // rows)
        last = (self._num_chunks - 1) * rows
        start = min(START, context - 1)
        self._num_sequences = min(NUM_SEQUENCES, limits.max_rows)
        counts = sorted({-(-self._num_sequences // way.placement.num_stages) for way in self._ways})
        return Points(
            StepPoint(1, start),
            StepPoint(1, context - 1),
            {count: StepPoint(1, start, count) for count in counts},
            StepPoint(rows, 0, with_logits=False),
            StepPoint(rows, last),
        )

    def _shape(self) -> Shape:
        spec = self._model.spec
        sizes = {way.group_size for way in self._ways}
        return Shape(
            spec.num_layers,
            padded(spec.embedding_length) * 4,
            {size: num_all_reduces(spec, size, with_logits=True) for size in sizes},
            self._num_sequences,
            self._points.first_chunk.rows,
            self._num_chunks,
        )

    def _cluster(self, shape: Shape) -> Cluster:
        """Measures exchanges as far as a way needs them."""
        by_rank = self._wanted.by_rank
        small, large = shape.row_bytes, shape.chunk_rows * shape.row_bytes
        work_bytes = sum(tensor.nbytes for tensor in self._model.tensors.values()) // (
            2 * shape.num_layers * len(by_rank)
        )
        local = {
            count: all_reduce_cost(INSIDE, count, small, large, work_bytes=work_bytes, anew=self._wanted.anew)
            for count in sorted({self._together_on_a_host(way) for way in self._ways} - {1})
        }
        needs_way = any(way.placement.num_hosts > 1 or way.placement.num_stages > 1 for way in self._ways)
        between = Cost(0.0)
        if needs_way:
            between = all_reduce_cost(
                BETWEEN, 2, small, large, self._wanted.wire, work_bytes, self._wanted.anew
            )
        submission = max(
            (
                device.dispatch_seconds
                for device in self._wanted.devices
                if isinstance(device, DescribedDevice)
            ),
            default=0.0,
        )
        between = replace(between, seconds=between.seconds + submission)
        local = {count: replace(cost, seconds=cost.seconds + submission) for count, cost in local.items()}
        coordinator = self._coordinator_seconds()
        return Cluster(
            by_rank,
            self._wanted.link or NO_LINK,
            local,
            between,
            coordinator,
            self._wanted.wire,
            self._wanted.links,
        )

    def _coordinator_seconds(self) -> float:
        """The time of a run on a host that is like this one, if there is any."""
        for devices in self._wanted.hosts:
            choices = [device for device in devices if isinstance(device, DeviceChoice)]
            if choices:
                sample = base_sample(self._model, choices, len(choices))
                return coordinator_seconds(
                    self._config, sample_probe(self._model, sample), choices, self._wanted.anew
                )
        return coordinator_seconds(*tiny_probe(), [DeviceChoice(None, NUMPY)], self._wanted.anew)

    def _together_on_a_host(self, way: Way) -> int:
        """Ranks of one group that are on one host, at most."""
        hosts = [self._wanted.by_rank[rank] for rank in way.group(0)]
        return max(map(hosts.count, hosts))

    def _group_plan(self, way: Way) -> dict[int, RankShare]:
        """The share of each rank, in its group."""
        return {
            rank: share
            for stage in range(way.placement.num_stages)
            for rank, share in zip(way.group(stage), self._plan(way.group(stage)), strict=True)
        }

    def _plan(self, group: Sequence[int]) -> tuple[RankShare, ...]:
        return group_plan(self._config, self._model.spec, self._wanted, group)

    def _works(self, way: Way) -> dict[int, RankWork]:
        """By the cluster's rank."""
        shares = self._group_plan(way)
        found: dict[int, RankWork] = {}
        for stage in range(way.placement.num_stages):
            group = way.group(stage)
            for host in sorted({self._wanted.by_rank[rank] for rank in group}):
                ranks = [rank for rank in group if self._wanted.by_rank[rank] == host]
                found |= self._host_works(len(group), ranks, [shares[rank] for rank in ranks], way)
            if has_experts_apart(self._config, self._wanted, group):
                found |= {
                    rank: replace(found[rank], is_behind=True)
                    for rank in group
                    if on_processor(self._wanted.devices[rank])
                }
        return found

    def _host_works(
        self, size: int, ranks: Sequence[int], shares: Sequence[RankShare], way: Way
    ) -> dict[int, RankWork]:
        """The work of a group's ranks on one host."""
        devices = [self._wanted.devices[rank] for rank in ranks]
        found = {
            rank: self._described(device, share)
            for rank, device, share in zip(ranks, devices, shares, strict=True)
            if isinstance(device, DescribedDevice)
        }
        choices = [device for device in devices if isinstance(device, DeviceChoice)]
        if not choices:
            return found
        key = size, choices[0].host, tuple(choice.name for choice in choices)
        if key not in self._measured:
            # Hosts like this one have about the same shares, and are measured once.
            if not self._wanted.names and self._config.expert_split != EXPERTS_APART:
                shares = largest_shares(self._group_plan(way), len(choices))
            self._measured[key] = measure_ranks(
                *(self._config, self._model, self._limits, size, shares, choices, self._points),
                self._time_steps,
                self._wanted.anew,
            )
        return found | dict(zip(ranks, self._measured[key], strict=True))

    def _described(self, device: DescribedDevice, share: RankShare) -> RankWork:
        points = self._points
        return described_work(
            device,
            self._model,
            share,
            self._limits,
            points.decode_far.position,
            tuple(points.together),
            points.first_chunk.rows,
        )
