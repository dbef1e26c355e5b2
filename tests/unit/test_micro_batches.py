"""How sequences that decode are dealt out over steps of stages: by measured times, and never to a loss."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_engine import fake_engine, greedy
from tests.models import examples
from tests.unit.test_requests import limits_for
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.micro_batches import MAX_AGE, NUM_NEEDED, Cut, MicroBatches
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams

pytestmark = pytest.mark.unit

# Milliseconds of a step by rows, as llama-160m takes them on lavapipe 22.3; the whole model's.
LAVAPIPE = {1: 106.0, 2: 144.0, 4: 149.0, 8: 271.0, 16: 505.0}
READING = dict.fromkeys((1, 2, 4, 8, 16), 100.0)  # decode that reads weights does nothing else
LINEAR = {rows: 50.0 * rows for rows in (1, 2, 4, 8, 16)}
HALVES = (0.5, 0.5)


def bucket(num_rows: int) -> int:
    return 1 << max(0, num_rows - 1).bit_length()


def settle(
    batches: MicroBatches, num_sequences: int, taken: Mapping[int, float], parts: tuple[float, ...]
) -> tuple[Cut, int]:
    """Runs rounds of steps as they are chosen; returns the last choice, and how many others were tried."""
    tried: list[int] = []
    for _ in range(40):
        cut = batches.cut(num_sequences)
        tried.append(cut.rows)
        sizes = [cut.rows] * (cut.num_steps - 1) + [cut.last_rows]
        for size in sizes:
            batches.note(size, [taken[bucket(size)] * part for part in parts])
    last = batches.cut(num_sequences)
    return last, sum(rows != last.rows for rows in tried)


@pytest.mark.parametrize(
    ("num_sequences", "taken", "parts", "rows"),
    [
        (4, LAVAPIPE, HALVES, 2),
        (4, LAVAPIPE, (0.39, 0.61), 4),  # the later stage takes longer for two steps than both for one
        (8, LAVAPIPE, HALVES, 4),
        (8, LAVAPIPE, (0.39, 0.61), 4),
        (12, LAVAPIPE, HALVES, 4),  # three steps of four, whose rows are cheaper than those of six
        (4, READING, HALVES, 2),
        (4, READING, (0.39, 0.61), 4),
        (8, LINEAR, (0.39, 0.61), 4),
        (6, LINEAR, (0.2, 0.2, 0.3, 0.3), 2),
    ],
)
def test_the_quickest_cut_is_found(
    num_sequences: int, taken: Mapping[int, float], parts: tuple[float, ...], rows: int
) -> None:
    cut, num_tried = settle(MicroBatches(len(parts)), num_sequences, taken, parts)
    assert cut.rows == rows
    assert num_tried <= 3 * (NUM_NEEDED + 1), "it is found soon"


@given(
    num_sequences=st.integers(1, 16),
    more=st.lists(st.floats(1.0, 2.0), min_size=4, max_size=4),
    parts=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4),
)
@examples(150)
def test_no_cut_is_slower_than_none_or_the_usual_one(
    num_sequences: int, more: list[float], parts: list[float]
) -> None:
    """more: what twice the rows take, in the time of half as many."""
    times = itertools.accumulate(more, lambda one, other: one * other, initial=1.0)
    taken = dict(zip((1, 2, 4, 8, 16), times, strict=True))

    def seconds(cut: Cut) -> float:
        sizes = [cut.rows] * (cut.num_steps - 1) + [cut.last_rows]
        busiest = max(parts) * sum(taken[bucket(size)] for size in sizes)
        return max(busiest, sum(parts) * taken[bucket(cut.rows)])

    batches = MicroBatches(len(parts))
    cut, _ = settle(batches, num_sequences, taken, tuple(parts))
    others = [Cut(num_sequences, num_sequences), batches.usual_cut(num_sequences)]
    assert seconds(cut) <= min(map(seconds, others)) / 0.96
    assert cut.num_steps <= max(len(parts) + 1, 1) and 0 < cut.last_rows <= cut.rows


def test_without_times_there_is_a_step_for_each_stage() -> None:
    batches = MicroBatches(3, max_rows=4)
    for _ in range(9):
        batches.note(2, [0.0, 0.0, 0.0])
    assert [batches.cut(count).rows for count in (0, 1, 3, 4, 9, 60)] == [0, 1, 1, 2, 3, 4]


def test_a_size_that_was_slow_once_is_tried_again_much_later() -> None:
    batches = MicroBatches(2)
    for _ in range(5):
        batches.note(2, [0.4, 0.6])
    for _ in range(5):
        batches.note(4, [0.3, 0.4])
    assert batches.cut(4).rows == 4
    for _ in range(MAX_AGE + 1):
        batches.note(4, [0.3, 0.4])
    assert batches.cut(4).rows == 2


@pytest.mark.parametrize("taken", [LAVAPIPE, LINEAR, READING])
def test_requests_go_together_where_that_is_quicker(
    taken: Mapping[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two stages has three quarters of the work. Where time is linear all cuts are alike."""
    limits = limits_for(LayerKinds(), max_sequences=4, num_blocks=96)
    engine, channel = fake_engine(limits, LayerKinds(), num_stages=2)
    channel.step_seconds = lambda rank, rows: (0.25, 0.75)[rank] * taken[bucket(rows)] * 1e-3
    requests = Requests(engine)
    params = SamplingParams(temperature=0, max_tokens=24)
    added = [requests.add([seed + 1], params) for seed in range(4)]
    sizes: list[int] = []
    submit = engine.submit

    def submitted(step: Step) -> None:
        sizes.append(step.token_ids.size)
        submit(step)

    monkeypatch.setattr(engine, "submit", submitted)
    while len(requests):
        requests.step()
    assert set(sizes[-3:]) == ({2} if taken is LINEAR else {4})
    for seed, request in enumerate(added):
        assert request.outputs[0].token_ids == greedy([seed + 1], LayerKinds(), 24)
