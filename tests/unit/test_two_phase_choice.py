"""Ranks measure together from how many bytes on two phases pay, and come to the same answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import LIMITS, Rank, load_message, make_spec, open_model, write_llama
from tests.unit.collectives_group import connected, on_ranks
from tplaunch.collectives import Collective, create
from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import make_plan, padded
from tplaunch.worker.measuring.measurements import Measurements
from tplaunch.worker.measuring.two_phase import NEVER, measured_threshold, measurement_name
from tplaunch.worker.measuring.ways import large_bytes
from tplaunch.worker.programs.options import ProgramOptions
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.programs.transformer import build_sums
from tplaunch.worker.step.segments import SegmentRunner


class ScriptedRunner(SegmentRunner):
    """Runs nothing; two phases cost what a function of the message's bytes says, one 1 s."""

    def __init__(self, factors: dict[int, float]) -> None:
        self.factors, self.asked = factors, 0

    def run(self, program: Program, num_rows: int, row_length: int, lap: object) -> bool:
        self.asked = num_rows * row_length * 4
        return True

    def slowest(self, seconds: list[float]) -> list[float]:
        """Returns the times of the last runs; known times are told to all as they are."""
        asked, self.asked = self.asked, 0
        return [1.0, self.factors[asked]] if asked else seconds


@pytest.mark.parametrize(
    ("factors", "max_rows", "expected"),
    [
        ({600: 2.0}, 6, NEVER),
        ({600: 0.99}, 6, NEVER),  # not worth a change
        ({600: 0.5, 400: 1.5}, 6, 600),
        ({600: 0.5, 400: 0.9, 200: 1.0}, 6, 400),
        ({800: 0.5, 400: 0.5, 200: 0.5, 100: 0.5}, 8, 100),
        ({100: 0.5}, 1, 100),
    ],
)
def test_the_threshold_is_the_smallest_message_that_gains(
    factors: dict[int, float], max_rows: int, expected: float
) -> None:
    header = np.zeros(8, np.uint32)
    segment = Segment((), 0)

    def build(rows: int, two_phase: bool) -> Program:
        assert header[0] == rows
        return Program(rows, 0, (segment,))

    assert measured_threshold(ScriptedRunner(factors), build, max_rows, 100, header) == expected


def test_what_one_rank_has_kept_is_not_measured_again(tmp_path: Path) -> None:
    kept = Measurements(tmp_path, {"ranks": "a; b; c"}, "kernels")
    header = np.zeros(8, np.uint32)

    def build(rows: int, two_phase: bool) -> Program:
        return Program(rows, 0, (Segment((), 0),))

    first = measured_threshold(ScriptedRunner({600: 0.5, 400: 1.5}), build, 6, 100, header, kept)
    again = Measurements(tmp_path, {"ranks": "a; b; c"}, "kernels")
    assert again.get(measurement_name(600)) == {"one-shot": 1.0, "two-phase": 0.5}

    def refuse(rows: int, two_phase: bool) -> Program:
        raise AssertionError("measured again")

    assert measured_threshold(ScriptedRunner({}), refuse, 6, 100, header, again) == first == 600
    again.forget()
    assert measured_threshold(ScriptedRunner({600: 2.0}), build, 6, 100, header, again) == NEVER


def test_all_ranks_find_the_same_threshold(tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf", make_spec())
    file, spec = open_model(tmp_path / "m.gguf")
    plan, row_bytes = make_plan(spec, [1, 1, 1]), padded(spec.embedding_length) * 4

    def run(collective: Collective) -> float:
        rank = Rank(file, spec, plan[collective.rank], 3, LIMITS)
        rank.device.attach_partials(collective.arena, collective.write_slot, collective.num_partials)

        def build(rows: int, two_phase: bool) -> Program:
            return build_sums(spec, rank.share, rank.shards, 3, rows, ProgramOptions(two_phase=two_phase))

        header = rank.device.view("step").view(np.uint32)
        runner = SegmentRunner(rank.device, collective)
        return measured_threshold(runner, build, LIMITS.max_rows, row_bytes, header)

    with connected("shared-memory", 3, slot_bytes=LIMITS.max_rows * row_bytes) as ranks:
        found = on_ranks(ranks, run)
    assert len(set(found)) == 1
    assert found[0] == NEVER or found[0] % row_bytes == 0


@pytest.mark.parametrize(
    ("hosts", "wanted", "expected"),
    [
        ((0, 1), "auto", {NEVER}),  # the same bytes either way
        ((0, 0, 1), "auto", {NEVER}),
        ((0, 1), "two-phase", {0}),
        ((0, 1, 2), "one-shot", {NEVER}),
        ((0, 1, 1, 2), "auto", None),
    ],
)
def test_hosts_measure_from_three_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hosts: tuple[int, ...],
    wanted: str,
    expected: set[float] | None,
) -> None:
    """They add up around a ring where that is faster, or wanted; all ranks do it alike."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_llama(tmp_path / "m.gguf", make_spec())
    file, spec = open_model(tmp_path / "m.gguf")
    plan, row_bytes = make_plan(spec, [1] * len(hosts)), padded(spec.embedding_length) * 4

    def make(**arguments: Any) -> Collective:
        return create("shared-memory", hosts=hosts, **arguments)

    def run(collective: Collective) -> float:
        rank = Rank(file, spec, plan[collective.rank], len(hosts), LIMITS)
        rank.device.attach_partials(collective.arena, collective.write_slot, collective.num_partials)
        load = load_message(file, spec, rank.share, len(hosts), LIMITS, "shared-memory")
        options = dataclasses.replace(load.options, all_reduce=wanted)
        placement = Placement(hosts, (0,) * len(hosts))
        load = dataclasses.replace(load, options=options, placement=placement)
        runner = SegmentRunner(rank.device, collective)
        return large_bytes(load, rank.shards, runner, ["numpy"] * len(hosts))

    with connected(make, len(hosts), slot_bytes=LIMITS.max_rows * row_bytes) as ranks:
        found = set(on_ranks(ranks, run))
    assert len(found) == 1
    assert expected is None or found == expected
