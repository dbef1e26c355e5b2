"""Measurements of a prediction are kept: for the same devices and question, on the same machine."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.models import config_of
from tests.unit.test_step_times import job
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting import steps
from tplaunch.launcher.fitting.kept import kept_numbers
from tplaunch.launcher.predicting import machine
from tplaunch.launcher.predicting.cluster import Cost
from tplaunch.worker.jobs.messages import StepSeconds, StepsJob

pytestmark = pytest.mark.unit

CONFIG = config_of(Path("m.gguf"))
CARD = DeviceChoice(0, "a card", kind="a card, driver 1")
JOB = job("tiny", 2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tplaunch"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of ranks of each measurement that is made; a step takes a second more than the last time."""
    found: list[int] = []

    def measure(_: object, __: object, jobs: Sequence[StepsJob]) -> list[list[StepSeconds]]:
        found.append(len(jobs))
        return [
            [StepSeconds(len(found) + rank / 8 + place / 64, 0.25) for place in range(len(one.points))]
            for rank, one in enumerate(jobs)
        ]

    monkeypatch.setattr(steps, "measured_steps", measure)
    return found


def test_steps_are_timed_once_unless_anew(measured: list[int], cache: Path) -> None:
    first = steps.time_steps(CONFIG, [CARD, CARD], [JOB, JOB])
    assert first[1][2].seconds == pytest.approx(1 + 1 / 8 + 2 / 64, rel=1e-3)
    assert first[1][2].device_part == 0.25 and len(first[0]) == len(JOB.points)
    other_token = replace(JOB, load=replace(JOB.load, token=bytes(16)))
    assert steps.time_steps(CONFIG, [CARD, CARD], [JOB, other_token]) == first and measured == [2]
    anew = steps.time_steps(CONFIG, [CARD, CARD], [replace(JOB, anew=True), JOB])
    assert anew[0][0].seconds == 2 and measured == [2, 2]
    assert steps.time_steps(CONFIG, [CARD, CARD], [JOB, JOB]) == anew
    assert len(list(cache.iterdir())) == 1


def test_other_questions_are_measured(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        ([CARD], [JOB]),
        ([CARD, CARD], [JOB, JOB]),
        ([replace(CARD, kind="a card, driver 2")], [JOB]),
        ([CARD], [replace(JOB, points=JOB.points[1:])]),
        ([CARD], [replace(JOB, load=replace(JOB.load, limits=replace(JOB.load.limits, kv_type="f32")))]),
    ]
    for _ in range(2):
        for choices, jobs in asked:
            steps.time_steps(CONFIG, choices, jobs)
    assert measured == [1, 2, 1, 1, 1]
    monkeypatch.setattr(platform, "node", lambda: "another machine with the same home")
    steps.time_steps(CONFIG, *asked[0])
    assert len(measured) == 6


def test_exchanges_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter([Cost(1.0, 0.5), Cost(2.0), Cost(3.0)])
    monkeypatch.setattr(machine, "_measured_all_reduce", lambda *_: next(costs))
    for _ in range(2):
        assert machine.all_reduce_cost("zmq", 2, 16, 64) == Cost(1.0, 0.5)
    assert machine.all_reduce_cost("zmq", 3, 16, 64) == Cost(2.0)
    assert machine.all_reduce_cost("zmq", 2, 16, 64, anew=True) == Cost(3.0)
    assert machine.all_reduce_cost("zmq", 2, 16, 64) == Cost(3.0)


def test_what_fails_is_not_kept() -> None:
    def fail() -> dict[str, float]:
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        kept_numbers([CARD], b"it", False, fail)
    assert kept_numbers([CARD], b"it", False, lambda: {"a": 1.0}) == {"a": 1.0}
    assert kept_numbers([CARD], b"it", False, fail) == {"a": 1.0}
