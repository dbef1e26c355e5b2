"""The driver on a fake channel, whose logits show every mistake in what sequences keep."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_engine import VOCABULARY_SIZE, fake_engine, greedy
from tests.models import examples
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.fake_model import logits
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.request import Reading, Request, RequestError
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.limits import Limits

pytestmark = pytest.mark.unit

GREEDY = SamplingParams(temperature=0, max_tokens=8)
KINDS = {
    "all positions": LayerKinds(),
    "a window": LayerKinds(sees_all=False, window=9),
    "both": LayerKinds(window=9),
    "states": LayerKinds(sees_all=False, has_states=True),
    "all positions and states": LayerKinds(has_states=True),
    "everything": LayerKinds(window=9, has_states=True),
}


def limits_for(kinds: LayerKinds, **changes: int) -> Limits:
    """Room for three sequences of 64 positions, in blocks of 4."""
    numbers: dict[str, Any] = {
        "context_length": 64,
        "num_blocks": 48 if kinds.sees_all else 0,
        "block_length": 4,
        "max_rows": 16,
        "max_logit_rows": 8,
        "max_sequences": 4,
        "num_window_blocks": 40 if kinds.window else 0,
        "num_slots": 16 if kinds.has_states else 0,
    }
    return Limits(**{**numbers, **changes})


def run(requests: Requests) -> int:
    """Until nothing waits; the number of steps."""
    count = 0
    while len(requests):
        requests.step()
        count += 1
        assert count < 5000, "requests that never end"
    return count


def tokens(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY_SIZE), k=count)


def text_of(request: Request) -> list[int]:
    assert request.error is None
    return request.outputs[0].token_ids


@dataclass(frozen=True)
class Arrival:
    """A request of a drawn run."""

    step: int
    num_shared: int  # tokens that all prompts begin with
    num_own: int
    num_tokens: int
    num_texts: int
    cancelled_after: int | None  # steps
    is_next_turn: bool  # its prompt begins with the one before it, and what that has generated so far


@st.composite
def runs(draw: st.DrawFn) -> tuple[LayerKinds, Limits, list[Arrival]]:
    window = draw(st.integers(2, 40))
    kinds = draw(st.sampled_from([LayerKinds(), LayerKinds(window=window), LayerKinds(False, window),
                                  LayerKinds(has_states=True), LayerKinds(False, 0, True),
                                  LayerKinds(window=window, has_states=True)]))  # fmt: skip
    length, rows = draw(st.sampled_from([4, 8])), draw(st.sampled_from([1, 3, 16, 64]))
    seats = draw(st.integers(1, 5))
    table, in_window = 64 // length, -(-(kinds.window + rows) // length) + 1
    limits = limits_for(
        kinds,
        block_length=length,
        max_rows=rows,
        max_logit_rows=draw(st.integers(1, rows)),
        max_sequences=seats,
        num_blocks=table + draw(st.sampled_from([0, 2, 20])) if kinds.sees_all else 0,
        num_window_blocks=min(table, in_window) + draw(st.integers(0, 12)) if kinds.window else 0,
        num_slots=seats + draw(st.sampled_from([0, 1, 3, 8])) if kinds.has_states else 0,
    )
    arrival = st.builds(
        Arrival,
        step=st.integers(0, 40),
        num_shared=st.integers(0, 40),
        num_own=st.integers(1, 12),
        num_tokens=st.integers(1, 10),
        num_texts=st.sampled_from([1, 1, 3]),
        cancelled_after=st.sampled_from([None, None, None, 0, 3, 11]),
        is_next_turn=st.booleans(),
    )
    return kinds, limits, draw(st.lists(arrival, min_size=1, max_size=12))


@examples(250)
@given(runs(), st.integers(1, 2), st.integers(1, 4), st.booleans())
def test_every_text_is_what_it_would_be_alone(
    drawn: tuple[LayerKinds, Limits, list[Arrival]],
    num_ranks: int,
    num_stages: int,
    tells_prompts_apart: bool,
) -> None:
    """Whatever arrives when, shares a beginning, is cancelled, or must give its blocks back meanwhile."""
    kinds, limits, arrivals = drawn
    engine, _ = fake_engine(
        limits, kinds, num_ranks, num_stages=num_stages, tells_prompts_apart=tells_prompts_apart
    )
    requests = Requests(engine)
    shared, started = tokens(40), list[tuple[Request, Arrival, int]]()
    waiting = sorted(enumerate(arrivals), key=lambda pair: pair[1].step)
    step = 0
    while waiting or len(requests):
        while waiting and waiting[0][1].step <= step:
            seed, arrival = waiting.pop(0)
            begin = shared[: arrival.num_shared]
            if arrival.is_next_turn and started:
                before = started[-1][0]
                begin = (list(before.prompt) + before.outputs[0].token_ids)[:40]
            prompt = begin + tokens(arrival.num_own, seed + 1)
            params = SamplingParams(temperature=0, max_tokens=arrival.num_tokens, n=arrival.num_texts)
            started.append((requests.add(prompt, params), arrival, step))
        requests.step()
        step += 1
        for request, arrival, since in started:
            if arrival.cancelled_after is not None and step - since > arrival.cancelled_after:
                requests.cancel(request.id)
        assert step < 5000, "requests that never end"
    for request, arrival, _ in started:
        expected = greedy(request.prompt, kinds, arrival.num_tokens, tells_prompts_apart=tells_prompts_apart)
        for output in request.outputs:
            if output.finish_reason == "cancelled":
                assert output.token_ids == expected[: len(output.token_ids)]
            else:
                assert (output.finish_reason, output.token_ids) == ("length", expected)
    memory = requests.memory
    assert memory.num_free_seats == limits.max_sequences
    assert all(pool.num_available == pool.size for pool in memory.pools)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_two_requests_that_share_steps_get_their_own_text(kinds: LayerKinds) -> None:
    """One may start while the other is half done: nobody goes on from another's logits."""
    requests = Requests(fake_engine(limits_for(kinds), kinds, 2)[0])
    first = requests.add(tokens(7, 1), GREEDY)
    for _ in range(3):
        requests.step()
    second = requests.add(tokens(30, 2), GREEDY)
    run(requests)
    assert text_of(first) == greedy(first.prompt, kinds, 8)
    assert text_of(second) == greedy(second.prompt, kinds, 8)


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_a_repeated_prompt_is_hardly_computed_again(kinds: LayerKinds) -> None:
    requests = Requests(fake_engine(limits_for(kinds), kinds)[0])
    first = requests.add(tokens(40), GREEDY)
    run(requests)
    second = requests.add(tokens(40), GREEDY)
    run(requests)
    assert text_of(second) == text_of(first) == greedy(first.prompt, kinds, 8)
    assert (first.times.cached_tokens, second.times.cached_tokens) == (
        0,
        36,
    )  # all whole blocks before the last


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_the_second_turn_of_a_chat_computes_what_is_new(kinds: LayerKinds) -> None:
    requests = Requests(fake_engine(limits_for(kinds), kinds)[0])
    first = requests.add(tokens(21), SamplingParams(temperature=0, max_tokens=10))
    run(requests)
    turn = [*first.prompt, *text_of(first), *tokens(6, 3)]
    second = requests.add(turn, GREEDY)
    run(requests)
    assert text_of(second) == greedy(turn, kinds, 8)
    assert second.times.cached_tokens >= 28  # 31 tokens, of which the last is not computed before it is read


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_prompts_that_part_in_the_middle_share_their_beginning(kinds: LayerKinds) -> None:
    """A state is kept where texts part once that is known: from the third on."""
    requests = Requests(fake_engine(limits_for(kinds), kinds)[0])
    cached = []
    for seed in range(3):
        request = requests.add([*tokens(24), *tokens(9, seed + 1)], GREEDY)
        run(requests)
        assert text_of(request) == greedy(request.prompt, kinds, 8)
        cached.append(request.times.cached_tokens)
    assert cached[0] == 0 and cached[2] == 24
    assert cached[1] == (0 if kinds.has_states else 24)


def test_the_newest_gives_its_blocks_back_and_comes_again() -> None:
    kinds = LayerKinds()
    requests = Requests(fake_engine(limits_for(kinds, num_blocks=16), kinds)[0])
    made = [requests.add(tokens(12, seed), SamplingParams(temperature=0, max_tokens=40)) for seed in range(3)]
    run(requests)
    assert requests.counts.num_preemptions > 0
    ends = [request.times.finished for request in made]
    assert ends == sorted(ends, key=lambda end: end or 0.0)
    for request in made:
        assert text_of(request) == greedy(request.prompt, kinds, 40)


@pytest.mark.parametrize("num_tokens", [1, 100, 300])
def test_a_short_request_has_its_first_token_in_three_steps(num_tokens: int) -> None:
    """Eight decode meanwhile, and a prompt of 4,000 tokens is computed: the target."""
    limits = Limits(context_length=4200, num_blocks=800, block_length=8, max_rows=256, max_sequences=16)
    requests = Requests(fake_engine(limits, LayerKinds())[0])
    endless = SamplingParams(temperature=0, max_tokens=60)
    decoding = [requests.add(tokens(9, number), endless) for number in range(8)]
    requests.step()
    long = requests.add(tokens(4000, 8), SamplingParams(temperature=0, max_tokens=2))
    requests.step()
    short = requests.add(tokens(num_tokens, 9), GREEDY)
    for _ in range(3):
        assert not text_of(long)
        requests.step()
    assert text_of(short) and {len(text_of(one)) for one in decoding} == {5}
    num_steps = requests.counts.num_steps
    while not text_of(long):
        requests.step()
    # All rows are used: the long one comes as late as the short one has rows, and no later.
    assert requests.counts.num_steps - num_steps <= -(-(4000 + num_tokens) // 248) + 1


def test_texts_of_one_prompt_differ_and_compute_it_once() -> None:
    kinds = LayerKinds(window=9, has_states=True)
    engine, channel = fake_engine(limits_for(kinds), kinds)
    requests = Requests(engine)
    request = requests.add(tokens(22), SamplingParams(temperature=2, top_k=0, top_p=1, min_p=0, n=4, seed=7))
    run(requests)
    texts = [tuple(output.token_ids) for output in request.outputs]
    assert len(set(texts)) == 4
    assert channel.num_rows == 22 + sum(len(text) - 1 for text in texts)
    for number in range(4):
        alone = Requests(fake_engine(limits_for(kinds, max_sequences=1), kinds)[0])
        again = alone.add(tokens(22), SamplingParams(temperature=2, top_k=0, top_p=1, min_p=0, n=4, seed=7))
        run(alone)
        assert tuple(again.outputs[number].token_ids) == texts[number]


def test_a_seed_gives_the_same_text_in_any_company() -> None:
    kinds, params = LayerKinds(), SamplingParams(seed=3, max_tokens=20)
    alone = Requests(fake_engine(limits_for(kinds), kinds)[0])
    expected = alone.add(tokens(10), params)
    run(alone)
    crowded = Requests(fake_engine(limits_for(kinds, num_blocks=16), kinds, 3)[0])
    for seed in range(1, 4):
        crowded.add(tokens(20, seed), SamplingParams(max_tokens=30, seed=seed))
    found = crowded.add(tokens(10), params)
    run(crowded)
    assert text_of(found) == text_of(expected)


def test_a_request_without_numbers_fails_alone_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = LayerKinds()
    engine, channel = fake_engine(limits_for(kinds), kinds)
    requests = Requests(engine)
    bad, good = requests.add(tokens(9, 1), GREEDY), requests.add(tokens(9, 2), GREEDY)
    channel.spoil_rows.add(0)
    events = requests.step()
    channel.spoil_rows.clear()
    run(requests)
    assert bad.outputs[0].finish_reason == "error" and "NaN" in str(bad.error)
    assert [event.finish_reason for event in events if event.request is bad] == ["error"]
    assert text_of(good) == greedy(good.prompt, kinds, 8)
    again = requests.add(tokens(9, 1), GREEDY)
    run(requests)
    assert again.times.cached_tokens == 0 and text_of(again) == greedy(again.prompt, kinds, 8)


@pytest.mark.parametrize("row", [0, 1])
def test_a_text_without_numbers_ends_the_others_of_its_prompt(row: int) -> None:
    engine, channel = fake_engine(limits_for(LayerKinds()), LayerKinds())
    requests = Requests(engine)
    bad = requests.add(tokens(9, 1), SamplingParams(n=2, max_tokens=8, seed=1))
    good = requests.add(tokens(9, 2), GREEDY)
    while not good.outputs[0].token_ids:
        requests.step()
    channel.spoil_rows.add(row)
    events = requests.step()
    channel.spoil_rows.clear()
    reasons = [event.finish_reason for event in events if event.request is bad]
    assert reasons == [*[None] * row, "error", "error"]
    assert [output.finish_reason for output in bad.outputs] == ["error", "error"]
    run(requests)
    assert text_of(good) == greedy(good.prompt, LayerKinds(), 8)


def test_a_prompt_whose_logits_are_no_numbers_fails_alone() -> None:
    """Its own log probabilities are asked for, of a row in the middle."""
    engine, channel = fake_engine(limits_for(LayerKinds(), max_logit_rows=16), LayerKinds())
    requests = Requests(engine)
    params = SamplingParams(temperature=0, max_tokens=8, prompt_logprobs=1)
    bad, good = requests.add(tokens(9, 1), params), requests.add(tokens(5, 2), params)
    channel.spoil_rows.add(3)
    requests.step()
    channel.spoil_rows.clear()
    run(requests)
    assert bad.outputs[0].finish_reason == "error" and "NaN" in str(bad.error)
    assert good.outputs[0].token_ids == greedy(good.prompt, LayerKinds(), 8)


def test_cancelling_frees_at_once() -> None:
    kinds = LayerKinds()
    requests = Requests(fake_engine(limits_for(kinds, max_sequences=1), kinds)[0])
    running, waiting = requests.add(tokens(9, 1), GREEDY), requests.add(tokens(9, 2), GREEDY)
    requests.step()
    requests.cancel(running.id)
    requests.cancel(running.id)
    requests.cancel("nobody")
    assert requests.memory.num_free_seats == 1
    run(requests)
    assert running.outputs[0].finish_reason == "cancelled"
    assert text_of(waiting) == greedy(waiting.prompt, kinds, 8)


def test_requests_are_told_apart_by_id() -> None:
    requests = Requests(fake_engine(limits_for(LayerKinds()), LayerKinds())[0])
    assert requests.add([1], GREEDY, id="mine").id == "mine"
    assert requests.add([1], GREEDY).id != requests.add([1], GREEDY).id
    with pytest.raises(RequestError, match="'mine' is running"):
        requests.add([1], GREEDY, id="mine")


@pytest.mark.parametrize(
    ("prompt", "params", "sentence"),
    [
        ([], GREEDY, "the prompt is empty"),
        ([1] * 64, GREEDY, "has 64 tokens, and the context of 64 has room for 63"),
        ([1, 64], GREEDY, "the token 64; this model has 0 to 63"),
        ([1, -1], GREEDY, "the token -1"),
        ([1], SamplingParams(bad_token_ids=[64]), "bad_token_ids"),
    ],
)
def test_a_bad_request_is_refused_before_it_costs_anything(
    prompt: list[int], params: SamplingParams, sentence: str
) -> None:
    requests = Requests(fake_engine(limits_for(LayerKinds()), LayerKinds())[0])
    with pytest.raises(RequestError, match=sentence):
        requests.add(prompt, params)
    assert not len(requests) and requests.step() == []


def test_a_text_ends_with_the_context() -> None:
    requests = Requests(fake_engine(limits_for(LayerKinds()), LayerKinds())[0])
    request = requests.add(tokens(60), SamplingParams(temperature=0, max_tokens=None))
    run(requests)
    assert (len(text_of(request)), request.outputs[0].finish_reason) == (4, "context")


def test_logits_of_a_whole_text() -> None:
    for kinds in KINDS.values():
        engine, _ = fake_engine(limits_for(kinds), kinds, 3)
        for _ in range(2):  # the second time, nothing may come from the cache
            found = all_logits(engine, tokens(50))
            np.testing.assert_array_equal(found, logits(tokens(50), kinds, VOCABULARY_SIZE))


def test_log_probabilities_of_the_prompt_don_t_come_from_the_cache() -> None:
    kinds = LayerKinds()
    requests = Requests(fake_engine(limits_for(kinds), kinds, 2)[0])
    requests.add(tokens(30), GREEDY)
    run(requests)
    request = requests.add(
        tokens(30), SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=3, logprobs=0)
    )
    run(requests)
    rows = logits(tokens(30), kinds, VOCABULARY_SIZE).astype(np.float64)
    expected = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    assert request.prompt_logprobs[0] is None and len(request.prompt_logprobs) == 30
    for position, found in enumerate(request.prompt_logprobs[1:]):
        assert found is not None and found.token == tokens(30)[position + 1]
        assert found.logprob == pytest.approx(expected[position, found.token], abs=1e-4)
        assert len(found.top) == 3
    assert len(request.outputs[0].logprobs) == 2


def test_a_rank_that_fails_ends_the_step_with_its_name() -> None:
    engine, channel = fake_engine(limits_for(LayerKinds()), LayerKinds(), 3)
    requests = Requests(engine)
    requests.add(tokens(5), GREEDY)
    channel.failing[1] = "the device is lost"
    with pytest.raises(WorkerError, match="rank 1 failed: the device is lost"):
        requests.step()


def test_a_silent_rank_is_named_after_the_timeout() -> None:
    engine, channel = fake_engine(limits_for(LayerKinds()), LayerKinds(), 3)
    requests = Requests(engine)
    requests.add(tokens(5), GREEDY)
    channel.silent.add(2)
    with pytest.raises(WorkerError, match="rank 2 did not finish step 1"):
        requests.step()


def test_a_slow_reader_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Requests(fake_engine(limits_for(LayerKinds()), LayerKinds())[0])
    request = requests.add(tokens(5), GREEDY)
    now = [0.0]
    monkeypatch.setattr("tplaunch.coordinator.serving.requests.time.perf_counter", lambda: now[0])
    while len(requests):
        requests.step()
        now[0] += 1000
    assert request.times.prompt_seconds == request.times.decode_seconds == 0


@pytest.mark.parametrize("count", [1025, 2000, 2005, 2**31 - 1])
def test_as_many_log_probabilities_come_as_are_asked_for(count: int) -> None:
    """More than the ranks give candidates of a row, and more than the vocabulary has."""
    engine, _ = fake_engine(limits_for(LayerKinds()), LayerKinds(), vocabulary_size=2000)
    requests = Requests(engine)
    kinds: tuple[dict[str, Any], ...] = (
        {"prompt_logprobs": count},
        {"logprobs": count},
        {"logprobs": count, "temperature": 0},
        {"logprobs": count, "xtc_probability": 0.5},
        {"logprobs": count, "allowed_token_ids": [5, 6]},
    )
    asked = [requests.add(tokens(9), SamplingParams(**{"max_tokens": 2, **kind})) for kind in kinds]
    run(requests)
    for request in asked:
        assert request.error is None
        for found in [*request.prompt_logprobs[1:], *request.outputs[0].logprobs]:
            assert found is None or len(found.top) == min(count, 2000)
    assert len(asked[0].prompt_logprobs) == 9 and all(len(one.outputs[0].logprobs) == 2 for one in asked[1:])


def test_prompt_logprobs_come_once_where_a_prompt_is_computed_again() -> None:
    """For another text that finds no seat, and after a preemption."""
    kinds = LayerKinds()
    params = SamplingParams(temperature=0, max_tokens=40, prompt_logprobs=1)
    requests = Requests(fake_engine(limits_for(kinds, max_sequences=1), kinds)[0])
    request = requests.add(tokens(9), replace(params, n=2))
    run(requests)
    assert len(request.prompt_logprobs) == 9
    requests = Requests(fake_engine(limits_for(kinds, num_blocks=17), kinds)[0])
    several = [requests.add(tokens(9, seed), params) for seed in range(3)]
    run(requests)
    assert requests.counts.num_preemptions
    assert [len(one.prompt_logprobs) for one in several] == [9, 9, 9]


def test_logits_come_once_after_a_preemption() -> None:
    kinds = LayerKinds()
    requests = Requests(fake_engine(limits_for(kinds, num_blocks=17, max_rows=4), kinds)[0])
    first = requests.add(tokens(9), SamplingParams(temperature=0, max_tokens=50))
    rows: dict[int, Any] = {}
    reading = Reading(start=3, take_row=rows.setdefault)
    second = requests.add(tokens(60, 1), SamplingParams(temperature=0), reading=reading)
    run(requests)
    assert first.error is None and second.num_read == 57
    assert list(rows) == list(range(3, 60))
    assert np.array_equal(np.stack([*rows.values()]), logits(tokens(60, 1), kinds, VOCABULARY_SIZE)[3:])


@pytest.mark.parametrize(
    "kinds", [LayerKinds(), LayerKinds(sees_all=False, window=9), LayerKinds(has_states=True)]
)
def test_a_prompt_that_is_read_begins_in_the_cache(kinds: LayerKinds) -> None:
    """Positions before the first one that is read need not be computed again, which changes nothing."""
    params = SamplingParams(temperature=0, prompt_logprobs=1)
    engine, channel = fake_engine(limits_for(kinds), kinds)
    requests = Requests(engine)
    found = []
    for _ in range(2):
        before = channel.num_rows
        request = requests.add(tokens(40), params, reading=Reading(29, following=3))
        run(requests)
        found.append((request.prompt_logprobs, channel.num_rows - before))
    (first, first_rows), (second, second_rows) = found
    assert first == second and first_rows == 40 and 11 <= second_rows < 40
    rows = logits(tokens(40), kinds, VOCABULARY_SIZE)[29:].astype(np.float64)
    expected = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    behind = [*tokens(40)[30:], 3]
    assert [one.token for one in first if one] == behind
    assert [one.logprob for one in first if one] == pytest.approx(
        expected[np.arange(11), behind].tolist(), abs=1e-6
    )


@pytest.mark.parametrize(
    ("reading", "sentence"),
    [
        (Reading(5), "position 5 can't be read: the prompt has 5 tokens"),
        (Reading(-1), "position -1 can't be read"),
        (Reading(following=VOCABULARY_SIZE), f"token {VOCABULARY_SIZE} can't follow"),
    ],
)
def test_what_can_not_be_read_is_refused(reading: Reading, sentence: str) -> None:
    requests = Requests(fake_engine(limits_for(LayerKinds()), LayerKinds())[0])
    with pytest.raises(RequestError, match=sentence):
        requests.add(tokens(5), SamplingParams(), reading=reading)
