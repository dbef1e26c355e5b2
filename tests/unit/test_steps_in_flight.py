"""Steps on several stages: what is under way at once, and that what ends meanwhile harms nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_engine import fake_engine, greedy
from tests.models import examples
from tests.unit.test_requests import GREEDY, KINDS, limits_for, tokens
from tplaunch.coordinator.messages import Message, Step, StepDone
from tplaunch.coordinator.serving.benchmark import Test, measure
from tplaunch.coordinator.serving.channel import Channel, WorkerError
from tplaunch.coordinator.serving.engine import Engine
from tplaunch.coordinator.serving.fake_channel import FakeChannel
from tplaunch.coordinator.serving.inbox import Inbox
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.results import StepResult
from tplaunch.coordinator.serving.text_logits import all_logits

pytestmark = pytest.mark.unit

WHOLE_ROWS = SamplingParams(seed=6, max_tokens=5, temperature=3.0, top_k=0, top_p=1.0, min_p=0.0)


class Watched:
    """An engine's steps: the sequences of those that are under way, and of all, by seat."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.under_way: list[Step] = []
        self.most = 0
        self.all: list[list[int]] = []
        submit, collect = engine.submit, engine.collect

        def submitted(step: Step) -> None:
            self.under_way.append(step)
            self.most = max(self.most, len(self.under_way))
            self.all.append(step.runs.reshape(-1, 5)[:, 0].tolist())
            submit(step)

        def collected(number: int) -> StepResult:
            assert self.under_way.pop(0).number == number
            return collect(number)

        monkeypatch.setattr(engine, "submit", submitted)
        monkeypatch.setattr(engine, "collect", collected)


class ShuffledChannel(Channel):
    """Gives the answers of a fake channel's ranks in any order, but each rank's in its own."""

    def __init__(self, channel: FakeChannel, seed: int) -> None:
        self._channel, self._random = channel, random.Random(seed)
        self.num_ranks, self.clock = channel.num_ranks, channel.clock
        self._waiting: list[tuple[int, Message]] = []

    def send(self, rank: int, message: Message) -> None:
        self._channel.send(rank, message)

    def broadcast(self, message: Message) -> None:
        self._channel.broadcast(message)

    def receive(self, deadline: float) -> tuple[int, Message] | None:
        while self._channel._received:
            received = self._channel.receive(deadline)
            assert received is not None
            self._waiting.append(received)
        if not self._waiting:
            return self._channel.receive(deadline)
        rank = self._random.choice([rank for rank, _ in self._waiting])
        found = next(one for one in self._waiting if one[0] == rank)
        self._waiting.remove(found)
        return found

    def close(self) -> None:
        self._channel.close()


def shuffle(engine: Engine, channel: FakeChannel, seed: int) -> None:
    """From now on answers come in another order."""
    engine._channel = ShuffledChannel(channel, seed)
    engine._inbox = Inbox(engine._channel, 2 * engine.most_in_flight)


def finish(requests: Requests) -> None:
    for _ in range(2000):
        if not len(requests):
            return
        requests.step()
    raise AssertionError("requests that never end")


@pytest.mark.parametrize("num_stages", [2, 3])
def test_decoding_sequences_are_dealt_out_over_the_stages(
    num_stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = fake_engine(limits_for(LayerKinds(), max_sequences=6, num_blocks=96), LayerKinds(), 1,
                            num_stages=num_stages)  # fmt: skip
    requests, watched = Requests(engine), Watched(engine, monkeypatch)
    for seed in range(6):
        requests.add([seed + 1], GREEDY)
    finish(requests)
    assert {len(seats) for seats in watched.all} == {6 // num_stages}
    for first in range(0, len(watched.all) - num_stages, num_stages):
        assert sorted(itertools.chain(*watched.all[first : first + num_stages])) == list(range(6))
    assert watched.most == num_stages


def test_a_sequence_alone_has_one_step_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = fake_engine(limits_for(LayerKinds()), LayerKinds(), num_stages=3)
    requests, watched = Requests(engine), Watched(engine, monkeypatch)
    requests.add([1], GREEDY)
    finish(requests)
    assert watched.most == 1 and len(watched.all) == GREEDY.max_tokens


@pytest.mark.parametrize(("least", "rows"), [(64, 64), (128, 128)])
def test_a_long_prompt_keeps_all_stages_at_work(
    least: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are sixteen steps for each stage, where these have the rows that devices ask for."""
    limits = limits_for(LayerKinds(), context_length=4096, num_blocks=1024, max_rows=256)
    engine, _ = fake_engine(limits, LayerKinds(), num_stages=2)
    engine.micro_batches.least_prompt_rows = least
    requests, watched = Requests(engine), Watched(engine, monkeypatch)
    requests.add(tokens(2048), SamplingParams(temperature=0, max_tokens=1))
    requests.step()
    assert len(watched.under_way) == engine.most_in_flight - 1
    assert [step.token_ids.size for step in watched.under_way] == [rows] * (engine.most_in_flight - 1)
    finish(requests)
    assert len(watched.all) == 2048 // rows and watched.most == engine.most_in_flight


@pytest.mark.parametrize("num_stages", [1, 2, 3])
def test_one_stage_has_one_step_under_way(num_stages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _ = fake_engine(limits_for(LayerKinds()), LayerKinds(), num_stages=num_stages)
    requests, watched = Requests(engine), Watched(engine, monkeypatch)
    for seed in range(4):
        requests.add(tokens(30, seed), GREEDY)
    finish(requests)
    assert watched.most <= (1 if num_stages == 1 else num_stages + 1)


@given(
    kinds=st.sampled_from(list(KINDS.values())),
    num_stages=st.integers(2, 4),
    num_ranks=st.integers(1, 2),
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    params=st.sampled_from([GREEDY, WHOLE_ROWS]),
)
@examples(60)
def test_answers_may_come_in_any_order(
    kinds: LayerKinds, num_stages: int, num_ranks: int, seed: int, lengths: list[int], params: SamplingParams
) -> None:
    """Some samplers fetch whole rows when later steps have run."""

    def texts(engine: Engine) -> list[list[int]]:
        requests = Requests(engine)
        made = [requests.add(tokens(length, length), params) for length in lengths]
        finish(requests)
        assert all(request.error is None for request in made)
        return [request.outputs[0].token_ids for request in made]

    limits = limits_for(kinds)
    engine, channel = fake_engine(limits, kinds, num_ranks, num_stages=num_stages)
    shuffle(engine, channel, seed)
    assert texts(engine) == texts(fake_engine(limits, kinds)[0])


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_what_is_cancelled_under_way_gives_its_memory_to_others(kinds: LayerKinds) -> None:
    """The steps that are on their way still write there; they come before what others compute."""
    engine, _ = fake_engine(limits_for(kinds, max_rows=4), kinds, num_stages=3)
    requests = Requests(engine)
    for round_number in range(6):
        ended = [requests.add(tokens(40, 100 + round_number + index), GREEDY) for index in range(3)]
        for _ in range(1 + round_number):
            requests.step()
        for request in ended:
            requests.cancel(request.id)
        assert not len(requests)
        prompt = tokens(21, round_number)
        last = requests.add(prompt, GREEDY)
        finish(requests)
        assert last.outputs[0].token_ids == greedy(prompt, kinds, 8)
    assert requests.memory.num_free_seats == 4 and requests.step() == []
    assert all(pool.num_available == pool.size for pool in requests.memory.pools)


def test_an_engine_forgets_steps_that_nobody_waits_for() -> None:
    """As of a driver that was left with steps under way."""
    kinds = LayerKinds()
    engine, _ = fake_engine(limits_for(kinds, max_rows=4), kinds, num_stages=3)
    left = Requests(engine)
    left.add(tokens(40), GREEDY)
    left.step()
    expected = all_logits(fake_engine(limits_for(kinds), kinds)[0], tokens(20, 1))
    assert all_logits(engine, tokens(20, 1)).tobytes() == expected.tobytes()


def test_logits_that_are_no_numbers_end_one_request_and_its_steps() -> None:
    kinds = LayerKinds()
    engine, channel = fake_engine(limits_for(kinds), kinds, num_stages=2)
    requests = Requests(engine)
    bad = requests.add(tokens(5, 1), SamplingParams(temperature=0, max_tokens=8, n=2))
    good = requests.add(tokens(6, 2), GREEDY)
    requests.step()
    channel.spoil_rows = {0}
    while bad.error is None:
        requests.step()
        channel.spoil_rows = set()
    finish(requests)
    assert bad.is_finished
    assert good.error is not None or good.outputs[0].token_ids == greedy(good.prompt, kinds, 8)
    again = requests.add(tokens(5, 1), GREEDY)
    finish(requests)
    assert again.outputs[0].token_ids == greedy(again.prompt, kinds, 8)


@pytest.mark.parametrize("rank", range(4))
def test_a_silent_rank_of_any_stage_is_named(rank: int) -> None:
    engine, channel = fake_engine(limits_for(LayerKinds()), LayerKinds(), 2, num_stages=2)
    channel.silent.add(rank)
    requests = Requests(engine)
    request = requests.add(tokens(9), GREEDY)
    with pytest.raises(WorkerError, match=f"rank {rank} did not finish step 1 within") as caught:
        requests.step()
    assert caught.value.rank == rank and list(requests.take_in_step()) == [request]
    assert not requests.take_in_step()


def test_stages_try_other_cuts_before_they_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = limits_for(LayerKinds(), max_sequences=4, num_blocks=96)
    engine, channel = fake_engine(limits, LayerKinds(), num_stages=2)
    channel.step_seconds = lambda rank, rows: (0.034, 0.038)[rank] if rows <= 2 else 0.046
    watched = Watched(engine, monkeypatch)
    measure(engine, Requests(engine), Test("decode", 16, batch=4), repeat=1)
    sizes = [len(seats) for seats in watched.all]
    assert 4 in sizes and set(sizes[-2 * 16 :]) == {2}


def test_time_of_overlapping_steps_counts_once() -> None:
    engine, _ = fake_engine(limits_for(LayerKinds(), max_rows=4), LayerKinds(), num_stages=3)
    requests = Requests(engine)
    request = requests.add(tokens(40), GREEDY)
    arrived = request.times.arrived
    finish(requests)
    assert request.times.finished is not None
    spent = request.times.prompt_seconds + request.times.decode_seconds
    assert 0 < requests.counts.step_seconds <= request.times.finished - arrived + 0.1
    assert spent == pytest.approx(requests.counts.step_seconds)


class Talkative(FakeChannel):
    """A channel whose first rank says everything twice."""

    def _answers(self, rank: int, message: Message) -> list[Message]:
        answers: Sequence[Message] = super()._answers(rank, message)
        return [*answers, *(one for one in answers if isinstance(one, StepDone) and rank == 0)]


def test_a_rank_that_answers_more_than_it_is_asked_is_refused() -> None:
    channel = Talkative(2)
    engine, good = fake_engine(limits_for(LayerKinds()), LayerKinds(), num_stages=2)
    channel._loads, channel.model = good._loads, good.model
    channel._received.clear()
    engine._channel, engine._inbox = channel, Inbox(channel, 4)
    requests = Requests(engine)
    requests.add([1], GREEDY)
    with pytest.raises(WorkerError, match=r"rank 0 (answered step|sent StepDone)"):
        finish(requests)
