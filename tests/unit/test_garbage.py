"""Steps leave nothing to collect and no memory behind; what others leave is collected when time is free."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest

from tests.lone_worker import worker
from tests.models import LIMITS, SPEC
from tplaunch.coordinator import garbage
from tplaunch.coordinator.encoding import decode, encode
from tplaunch.coordinator.garbage import collect_if_due, collected_by_hand
from tplaunch.coordinator.messages import FetchRows, Rows, Step, StepDone
from tplaunch.coordinator.serving.engine import Engine
from tplaunch.coordinator.serving.micro_batches import MicroBatches
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.results import StepResult, merge
from tplaunch.coordinator.split.plan import Span
from tplaunch.worker.rank import Worker

__all__ = ["worker"]  # a fixture


@contextmanager
def counted_collections() -> Iterator[list[str]]:
    phases: list[str] = []

    def note(phase: str, _info: dict[str, int]) -> None:
        phases.append(phase)

    gc.callbacks.append(note)
    try:
        yield phases
    finally:
        gc.callbacks.remove(note)


class WireEngine:
    """The part of an engine that a driver asks for, with one worker in this process, wire included."""

    spec, limits, next_number = SPEC, LIMITS, 1
    num_stages = most_in_flight = 1
    tells_prompts_apart = False

    def __init__(self, worker: Worker) -> None:
        self._worker, self.micro_batches = worker, MicroBatches(1)

    def submit(self, step: Step) -> None:
        received = decode(encode(step))
        assert isinstance(received, Step)
        self._done = decode(encode(self._worker.run(received)))
        self.next_number += 1
        self._last = step
        collect_if_due()

    def collect(self, number: int) -> StepResult:
        step, done = self._last, self._done
        assert isinstance(done, StepDone) and number == step.number
        return merge(step.wanted, 1, [done.answer], [done.logits], [Span(0, SPEC.vocabulary_size)])

    def fetch(self, rows: list[int]) -> npt.NDArray[np.float32]:
        found = self._worker.answer(FetchRows(self._last.number, np.array(rows, np.int32)))
        assert isinstance(found, Rows)
        return found.logits.reshape(len(rows), -1)


def generate(requests: Requests, num_sequences: int) -> None:
    """Runs the steps of both sides; every sequence fills the context."""
    for number in range(num_sequences):
        request = requests.add([1 + number % 40], SamplingParams(seed=1, max_tokens=None))
        while not request.is_finished:
            requests.step()
        assert request.outputs[0].finish_reason == "context"


def test_steps_leave_nothing_to_collect(worker: Worker) -> None:
    requests = Requests(cast(Engine, WireEngine(worker)))
    generate(requests, 1)
    with collected_by_hand(), counted_collections() as phases:
        generate(requests, 50)
        left = gc.get_count()[0]
        assert not phases  # thousands of steps do not make one collection due
        assert gc.collect() == 0
    assert left < garbage.MAX_UNCOLLECTED / 10


def test_steps_leave_no_memory_behind(worker: Worker) -> None:
    requests = Requests(cast(Engine, WireEngine(worker)))
    with collected_by_hand():
        generate(requests, 30)  # what is kept of the first steps, as NumPy and Python do, is not theirs
        tracemalloc.start()
        try:
            generate(requests, 5)
            before, _ = tracemalloc.get_traced_memory()
            generate(requests, 30)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert after - before < 20_000  # less than 11 bytes a step


def test_what_others_leave_is_collected_when_it_is_due() -> None:
    with collected_by_hand(), counted_collections() as phases:
        for _ in range(garbage.MAX_UNCOLLECTED // 2):
            cycle: list[object] = []
            cycle.append(cycle)
        collect_if_due()
        assert not phases
        for _ in range(garbage.MAX_UNCOLLECTED):
            cycle = []
            cycle.append(cycle)
        collect_if_due()
        assert phases == ["start", "stop"]
        assert gc.get_count()[0] < 100


def test_what_lives_long_is_rarely_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with many texts makes a collection due at every few steps, each of which looked at all."""
    generations: list[int] = []
    monkeypatch.setattr(garbage._Rest, "until", 0.0)
    # Each look at the clock is a second: the walk takes one, after which there is rest for a hundred.
    monkeypatch.setattr(garbage, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    with collected_by_hand():
        gc.callbacks.append(
            note := lambda phase, told: generations.append(told["generation"]) if phase == "start" else None
        )
        try:
            alive = []
            for _ in range(20):
                alive += [[each] for each in range(garbage.MAX_UNCOLLECTED + 1)]
                collect_if_due()
        finally:
            gc.callbacks.remove(note)
    assert generations == [2] + [garbage.YOUNG] * 19


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled: bool) -> None:
    was_enabled = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        with collected_by_hand():
            assert not gc.isenabled()
            assert gc.get_freeze_count()
        assert gc.isenabled() is enabled
        assert not gc.get_freeze_count()
    finally:
        gc.enable() if was_enabled else gc.disable()
