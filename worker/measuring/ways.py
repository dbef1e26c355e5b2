"""Decides how a run's all-reduces are made: as options say, or as measuring shows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from tplaunch.collectives import Collective
from tplaunch.collectives.arena import WORD_ELEMENTS
from tplaunch.coordinator.messages import Load
from tplaunch.coordinator.split.plan import padded
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.step import StepLayout, StepView
from tplaunch.worker.device import WaitingDevice
from tplaunch.worker.measuring.two_phase import NEVER, kept_measurements, measured_threshold
from tplaunch.worker.measuring.waiting import Chooser, Waiting
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Program
from tplaunch.worker.programs.transformer import build_sums
from tplaunch.worker.step.segments import SegmentRunner

NUM_ALL_REDUCES = 16  # of a program by which ways to wait are measured: a step of a small model has as many

log = logging.getLogger("worker")


def way(collective: Collective, large: bool) -> ProgramOptions:
    """Returns how the all-reduces of a program are made.

    large: not one-shot. Several hosts sum around a ring then, and the ranks of one in two phases.
    """
    return ProgramOptions(host_sums=large) if collective.can_sum else ProgramOptions(two_phase=large)


def waiting(load: Load, shards: Mapping[str, Shard], runner: SegmentRunner, kinds: Sequence[str]) -> Waiting:
    """Chooses how the ranks wait for their devices; the same on all ranks, whose devices' kinds are given."""
    collective, device = runner.collective, runner.device
    if collective.num_ranks == 1 or (collective.words is None and load.options.waiting == "auto"):
        return Waiting()  # what hosts exchange takes so long that waiting for a device hardly counts

    def build() -> Program:
        return build_sums(
            load.spec, load.share, shards, collective.num_ranks, 1, num_all_reduces=NUM_ALL_REDUCES
        )

    header = StepView(device.view("step").view(np.uint32), StepLayout(load.limits)).header
    kept = None
    if collective.rank == 0:
        kept = kept_measurements(kinds, load.options.measure_anew)
    row_length = padded(load.spec.embedding_length)
    chooser = Chooser(runner, build, row_length, header, kept)
    on_cpu = isinstance(device, WaitingDevice) and device.on_cpu
    return chooser.choose(load.options.waiting, _obstacle(load, collective), on_cpu)


def _obstacle(load: Load, collective: Collective) -> str:
    """Says why devices can't exchange among themselves in this run; nothing where they may."""
    row_length = padded(load.spec.embedding_length)
    if load.spec.is_recurrent:
        return "the model has states that a step can't be computed on twice"
    if row_length > WORD_ELEMENTS:
        return f"a row has {row_length} numbers, where an exchange has {WORD_ELEMENTS} at most"
    if wire_inside(load, collective) != "f32":
        return "words carry float32, and --wire bf16 rounds"
    return ""


def wire_inside(load: Load, collective: Collective) -> str:
    """Returns as what the ranks of a host read each other's partial sums: as float32 where hosts do, too."""
    return "bf16" if load.options.wire == "bf16" and not collective.touches_sums else "f32"


def large_bytes(
    load: Load, shards: Mapping[str, Shard], runner: SegmentRunner, kinds: Sequence[str]
) -> float:
    """Returns from how many bytes on an all-reduce is not one-shot; the same on all ranks.

    kinds: of all ranks' devices. The runner's device has its buffers already.
    """
    wanted, collective, device = load.options.all_reduce, runner.collective, runner.device
    has_choice = collective.can_sum or collective.has_two_phases
    if wanted == "two-phase" and has_choice:
        return 0
    num_summing = collective.num_partials if collective.can_sum else collective.num_ranks
    if wanted == "one-shot" or num_summing <= 2 or not has_choice:
        return NEVER

    def build(rows: int, large: bool) -> Program:
        program = build_sums(
            load.spec, load.share, shards, collective.num_ranks, rows, way(collective, large)
        )
        device.prepare(program)
        return program

    header = StepView(device.view("step").view(np.uint32), StepLayout(load.limits)).header
    kept = None
    if collective.rank == 0:
        placed = tuple(load.placement.hosts[rank] for rank in load.group)
        hosts = f"{placed} as {load.options.wire}" if collective.can_sum else ""
        kept = kept_measurements(kinds, load.options.measure_anew, hosts)
    row_bytes = padded(load.spec.embedding_length) * 4
    threshold = measured_threshold(runner, build, load.limits.max_rows, row_bytes, header, kept)
    if threshold != NEVER:
        log.info("all-reduces are not one-shot from %d bytes on", threshold)
    return threshold
