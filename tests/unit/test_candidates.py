"""The ranks' answers about their logits, what is put together of them, and what of it is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import steps
from tests.lone_worker import worker
from tests.models import LIMITS, SPEC, LocalEngine, examples, write_llama
from tplaunch.coordinator import candidates
from tplaunch.coordinator.encoding import decode, encode
from tplaunch.coordinator.gguf.origin import Origin
from tplaunch.coordinator.likeliest import SUM_ERROR, exact_log_sum, likeliest, log_sum
from tplaunch.coordinator.messages import Answer, FetchRows, Message, Rows, Step, StepDone, Wanted
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.channel import Channel, WorkerError
from tplaunch.coordinator.serving.engine import Engine, EngineConfig
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling import results
from tplaunch.coordinator.serving.sampling.evidence import Wants, evidence_of
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.pool import NeedsRow
from tplaunch.coordinator.serving.sampling.results import Gatherer, StepResult, check_answer, gather, merge
from tplaunch.coordinator.serving.sampling.sampler import Sampler
from tplaunch.coordinator.split.plan import Span, make_plan
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.logits import LOGIT_GROUPS
from tplaunch.worker.rank import ProtocolError, Worker
from tplaunch.worker.step.checks import StepError

__all__ = ["worker"]  # a fixture

Floats = npt.NDArray[np.float32]
NOTHING = np.zeros(0, np.int32)


def ints(*values: int) -> npt.NDArray[np.int32]:
    return np.array(values, np.int32)


@given(
    size=st.integers(1, 4000),
    num_values=st.sampled_from([1, 3, 50, 10**6]),
    count=st.integers(1, 70),
    ruled_out=st.sampled_from([0.0, 0.3, 0.99, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_the_likeliest_of_many_are_those_of_a_sort(
    size: int, num_values: int, count: int, ruled_out: float, seed: int
) -> None:
    """More than a group, many of them equal, many or all ruled out."""
    random = np.random.default_rng(seed)
    logits = random.integers(0, num_values, size).astype(np.float32)
    logits[random.random(size) < ruled_out] = -np.inf
    expected = sorted(np.flatnonzero(logits > -np.inf), key=lambda token: (-logits[token], token))[:count]
    assert likeliest(logits, count).tolist() == expected


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_sums_are_well_within_what_sampling_allows_for(spread: float) -> None:
    row = (np.random.default_rng(1).standard_normal(150_000) * spread - 1000).astype(np.float32)
    peak = float(row.max())
    exact = peak + math.log(math.fsum(np.exp(row.astype(np.float64) - peak).tolist()))
    assert abs(math.expm1(log_sum(row) - exact)) < SUM_ERROR / 3
    assert exact_log_sum(row) == pytest.approx(exact, abs=1e-11)


def test_logits_that_are_no_numbers_come_first() -> None:
    row = np.array([5, math.nan, 7, math.inf, 6, math.nan], np.float32)
    assert likeliest(row, 2).tolist() == [1, 3] and likeliest(row, 9).tolist() == [1, 3, 5]
    assert math.isnan(log_sum(row))
    assert log_sum(np.full(3, -np.inf, np.float32)) == -math.inf


def answered(wanted: Wanted, logits: Floats, slices: list[Span]) -> StepResult:
    """Puts together what ranks with these slices answer by way of the wire."""
    answers, wholes = [], []
    for span in slices:
        mine = np.ascontiguousarray(logits[:, span.start : span.stop])
        whole = candidates.whole_rows(wanted.whole_rows, mine)
        sent = StepDone(1, whole, {}, answer=candidates.answer(wanted, mine, span))
        done = decode([bytes(frame) for frame in encode(sent)])
        assert isinstance(done, StepDone)
        check_answer(wanted, done.answer, done.logits, span)
        answers.append(done.answer)
        wholes.append(done.logits)
    return merge(wanted, len(logits), answers, wholes, slices)


def spans(size: int, cuts: list[int]) -> list[Span]:
    ends = [0, *sorted(cut % (size + 1) for cut in cuts), size]
    return [Span(start, stop) for start, stop in pairwise(ends)]


WANTS = st.builds(
    lambda count, log_sum, ids, whole: (count, log_sum, ids, whole),
    st.sampled_from([0, 1, 5, 40, 5000]),
    st.booleans(),
    st.lists(st.integers(0, 10**6), max_size=5),
    st.booleans(),
)


@given(
    size=st.sampled_from([1, 2, 7, 300, 1000]),
    cuts=st.lists(st.integers(0, 10**6), max_size=3),
    num_values=st.sampled_from([1, 5, 10**6]),
    odd=st.sampled_from([None, None, -math.inf, math.nan, math.inf]),
    wants=st.lists(WANTS, min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
@examples(400)
def test_answers_together_tell_what_whole_rows_tell(
    size: int, cuts: list[int], num_values: int, odd: float | None, wants: list[Any], seed: int
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.integers(0, num_values, (len(wants), size)) / 7).astype(np.float32)
    if odd is not None:
        logits[random.random(logits.shape) < 0.3] = odd
    wanted = [
        Wants(min(count, size), has_sum, np.unique(ints(*(token % size for token in ids))), whole)
        for count, has_sum, ids, whole in wants
    ]
    message = gather(wanted)
    candidates.check_wanted(message, len(wants), size)
    result = answered(message, logits, spans(size, cuts))
    for row, want in enumerate(wanted):
        found, expected = result.evidence(row), evidence_of(logits[row], want)
        assert found.sound == expected.sound
        if expected.sound:
            assert found.ids.tolist() == expected.ids.tolist()
            assert found.logits.tobytes() == expected.logits.tobytes()
            assert found.complete == (expected.complete and want.num_candidates > 0)
        np.testing.assert_allclose(found.log_sum, expected.log_sum, atol=1e-6)
        assert found.asked_logits.tobytes() == expected.asked_logits.tobytes()
        assert found.asked_ids.tolist() == want.ids.tolist()
        whole = result.whole(row)
        assert (whole is not None) == want.whole_row
        if whole is not None:
            assert whole.tobytes() == logits[row].tobytes()


@given(
    size=st.sampled_from([1, 2, 7, 300]),
    cuts=st.lists(st.integers(0, 10**6), max_size=3),
    num_rows=st.integers(1, 5),
    num_values=st.sampled_from([1, 5, 10**6]),
    odd=st.sampled_from([None, None, -math.inf, math.nan, math.inf]),
    seed=st.integers(0, 2**32),
)
@examples(200)
def test_greedy_rows_are_answered_and_merged_as_all_others(
    size: int, cuts: list[int], num_rows: int, num_values: int, odd: float | None, seed: int
) -> None:
    random = np.random.default_rng(seed)
    logits = (random.integers(0, num_values, (num_rows, size)) / 7).astype(np.float32)
    if odd is not None:
        logits[random.random(logits.shape) < 0.3] = odd
    wanted = gather([Wants(1)] * num_rows)
    found = answered(wanted, logits, spans(size, cuts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "wants_only_likeliest", lambda wanted: False)
        patch.setattr(results, "wants_only_likeliest", lambda wanted: False)
        expected = answered(wanted, logits, spans(size, cuts))
    assert found.sound.tolist() == expected.sound.tolist()
    assert found.counts.tolist() == expected.counts.tolist()
    assert found.complete.tolist() == expected.complete.tolist()
    for row, count in enumerate(found.counts.tolist()):
        assert found.ids[row, :count].tolist() == expected.ids[row, :count].tolist()
        assert found.logits[row, :count].tobytes() == expected.logits[row, :count].tobytes()
        assert math.isnan(found.log_sums[row]) and math.isnan(expected.log_sums[row])


def test_the_same_wishes_are_gathered_once() -> None:
    gatherer, wants = Gatherer(), [Wants(1), Wants(5, log_sum=True)]
    first = gatherer.gather(wants)
    assert first.num_candidates.tolist() == [1, 5] and first.sum_rows.tolist() == [1]
    assert gatherer.gather([*wants]) is first
    assert gatherer.gather([wants[0], Wants(6)]).num_candidates.tolist() == [1, 6]
    assert gatherer.gather(wants[:1]).num_candidates.tolist() == [1]
    assert gatherer.gather([]).num_candidates.tolist() == []


def test_a_step_of_64_rows_is_answered_with_some_kilobytes() -> None:
    logits = np.random.default_rng(0).standard_normal((64, 150_000)).astype(np.float32)
    slices = spans(150_000, [75_000])
    for params, most in (
        (SamplingParams(temperature=0), 2_000),
        (SamplingParams(), 24_000),
        (SamplingParams(top_k=0, logprobs=5), 40_000),
    ):
        wanted = gather([Sampler(params, 150_000).wants([]) for _ in range(64)])
        mine = np.ascontiguousarray(logits[:, :75_000])
        answer = candidates.answer(wanted, mine, slices[0])
        done = StepDone(1, candidates.whole_rows(wanted.whole_rows, mine), {}, answer=answer)
        assert sum(len(bytes(frame)) for frame in encode(done)) < most
        assert sum(len(bytes(frame)) for frame in encode(FetchRows(1, NOTHING))) < 100


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (Wanted(num_candidates=ints(1)), "candidates of 1 rows are wanted, of 2 logit rows"),
        (Wanted(num_candidates=ints(1, 49)), "a number of candidates from 1 to 49; 0 to 48 are possible"),
        (Wanted(num_candidates=ints(1, -1)), "a number of candidates from -1 to 1"),
        (Wanted(sum_rows=ints(0, 2)), "a row of a sum from 0 to 2; 0 to 1 are possible"),
        (Wanted(whole_rows=ints(1, 1)), "a whole row is named twice or not in order"),
        (Wanted(whole_rows=ints(1, 0)), "a whole row is named twice or not in order"),
        (Wanted(asked_rows=ints(0)), "0 asked tokens with 1 rows"),
        (Wanted(asked_rows=ints(0), asked_ids=ints(48)), "an asked token from 48 to 48; 0 to 47 are"),
        (Wanted(asked_rows=ints(2), asked_ids=ints(0)), "an asked row from 2 to 2; 0 to 1 are possible"),
        (Wanted(asked_rows=ints(1, 0), asked_ids=ints(0, 0)), "the asked rows do not ascend"),
    ],
)
def test_what_can_not_be_wanted_is_refused(wanted: Wanted, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        candidates.check_wanted(wanted, 2, 48)


WANTED = Wanted(ints(2, 1), ints(0), ints(0, 1), ints(1, 30), ints(1))
ANSWER = Answer(
    ints(2, 1), ints(3, 1, 2), np.ones(3, np.float32), np.ones(1), np.ones(1, np.float32)
)  # fmt: skip


def test_an_answer_that_fits_is_taken() -> None:
    check_answer(WANTED, ANSWER, np.ones(20, np.float32), Span(0, 20))


@pytest.mark.parametrize(
    ("change", "num_logits", "sentence"),
    [
        ({"counts": ints(2)}, 20, "1 counts of candidates; expected 2"),
        ({"counts": ints(3, 0)}, 20, "up to 3 candidates of a row, more than were wanted"),
        ({"counts": ints(4, -1)}, 20, "up to 4 candidates of a row"),
        ({"counts": ints(2, 0)}, 20, "3 ids of candidates; expected 2"),
        ({"ids": ints(3, 1, 20)}, 20, r"candidates from 1 to 20; 0\.\.19 are its own"),
        ({"ids": ints(-1, 1, 2)}, 20, "candidates from -1 to 2"),
        ({"logits": np.ones(2, np.float32)}, 20, "2 logits of candidates; expected 3"),
        ({"log_sums": np.ones(2)}, 20, "2 log_sums of candidates; expected 1"),
        ({"asked": np.ones(2, np.float32)}, 20, "2 asked of candidates; expected 1"),
        ({}, 40, "40 logits; expected 1 x 20"),
    ],
)
def test_an_answer_that_does_not_fit_names_the_rank(
    change: dict[str, Any], num_logits: int, sentence: str
) -> None:
    plan = make_plan(SPEC, [20.0, 28.0])
    assert plan[0].vocabulary == Span(0, 20)
    right = replace(ANSWER, counts=ints(0, 0), ids=NOTHING, logits=np.zeros(0, np.float32))
    channel = Answering(
        [
            StepDone(1, np.ones(num_logits, np.float32), {}, answer=replace(ANSWER, **change)),
            StepDone(1, np.ones(28, np.float32), {}, answer=replace(right, log_sums=np.ones(1))),
        ]
    )
    with pytest.raises(WorkerError, match=f"rank 0 answered step 1 with {sentence}"):
        engine_on(channel).run(replace(step_of(2), wanted=WANTED))


class Answering(Channel):
    """A channel to two ranks that say what they are given to say."""

    def __init__(self, messages: list[Message]) -> None:
        self.num_ranks, self.clock = 2, lambda: 0.0
        self._messages, self.sent = enumerate(messages), list[Message]()

    def send(self, rank: int, message: Message) -> None:
        self.sent.append(message)

    def broadcast(self, message: Message) -> None:
        self.sent.append(message)

    def receive(self, deadline: float) -> tuple[int, Message] | None:
        number, message = next(self._messages)
        return number % 2, message

    def close(self) -> None:
        pass


def engine_on(channel: Channel) -> Engine:
    plan, config = make_plan(SPEC, [20.0, 28.0]), EngineConfig(RankOptions(timeout_seconds=1.0), LIMITS, 1.0)
    engine = Engine(channel, Origin((), ""), [], SPEC, plan, config)
    return engine


def step_of(num_rows: int) -> Step:
    return steps.step_of(1, [steps.Rows([0] * num_rows)], range(num_rows), {0: [0]})


def test_the_engine_joins_fetched_rows_and_checks_them() -> None:
    done = [StepDone(1, np.zeros(0, np.float32), {}) for _ in range(2)]
    one, other = np.arange(40, dtype=np.float32), np.arange(56, dtype=np.float32)
    channel = Answering(
        [*done, Rows(1, one), Rows(1, other), Rows(1, one), Rows(1, one), Rows(2, one), Rows(1, other)]
    )
    engine = engine_on(channel)
    engine.run(step_of(2))
    rows = engine.fetch([0, 1])
    assert rows.tobytes() == np.concatenate((one.reshape(2, 20), other.reshape(2, 28)), axis=1).tobytes()
    assert isinstance(channel.sent[-1], FetchRows) and channel.sent[-1].rows.tolist() == [0, 1]
    with pytest.raises(WorkerError, match="rank 1 sent 40 logits of step 1; expected 2 x 28"):
        engine.fetch([0, 1])
    with pytest.raises(WorkerError, match="rank 0 answered step 2; expected step 1"):
        engine.fetch([0, 1])


def test_a_worker_sends_more_of_its_last_step(worker: Worker) -> None:
    whole = Wanted(whole_rows=ints(0, 1))
    first = worker.answer(replace(step_of(2), wanted=whole))
    assert isinstance(first, StepDone)
    logits = first.logits.reshape(2, 48).copy()
    rows = worker.answer(FetchRows(1, ints(1)))
    assert isinstance(rows, Rows) and rows.number == 1
    assert rows.logits.tobytes() == logits[1].tobytes()
    with pytest.raises(ProtocolError, match="rows of step 2 are asked for, which are not kept"):
        worker.answer(FetchRows(2, ints(0)))
    with pytest.raises(ValueError, match="a fetched row from 2 to 2; 0 to 1 are possible"):
        worker.answer(FetchRows(1, ints(2)))
    with pytest.raises(StepError, match="step 2: a whole row is named twice"):
        worker.answer(replace(step_of(2), number=2, wanted=Wanted(whole_rows=ints(0, 0))))


@pytest.fixture
def grouping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has devices look through their logits, as those of cards do."""
    monkeypatch.setattr(NumpyDevice, "groups_logits", True)


@pytest.mark.parametrize("count", [1, 5, 48])
def test_a_rank_answers_alike_by_what_its_device_has_found(
    grouping: None, worker: Worker, count: int
) -> None:
    rows = ints(0, 1)
    wanted = Wanted(ints(count, count), rows, ints(1, 1), ints(3, 47), rows)
    done = worker.answer(replace(step_of(2), wanted=wanted))
    assert isinstance(done, StepDone)
    logits = done.logits.reshape(2, 48)
    groups = worker.device.view(LOGIT_GROUPS).view(np.float32)[:4].reshape(2, 2)
    assert groups[:, 0].tolist() == logits.max(axis=1).tolist()
    expected = candidates.answer(wanted, logits, Span(0, 48))
    for name in ("counts", "ids", "logits", "asked"):
        assert getattr(done.answer, name).tobytes() == getattr(expected, name).tobytes()
    np.testing.assert_allclose(done.answer.log_sums, expected.log_sums, rtol=SUM_ERROR)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.0), (3.0, 1.0, 2.0)])
def test_tokens_are_the_same_of_candidates_and_of_whole_rows(
    tmp_path: Path, weights: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of an odd vocabulary; sampled by every stage that candidates are enough for."""
    write_llama(tmp_path / "m.gguf")
    params = SamplingParams(
        top_k=7, top_p=0.9, repetition_penalty=1.2, logit_bias={5: 1.0, 6: -1.0}, seed=4, max_tokens=27
    )
    texts = []
    for of_candidates in (True, False):
        engine = LocalEngine(tmp_path / "m.gguf", weights)
        requests = Requests(engine)
        if not of_candidates:
            monkeypatch.setattr(Sampler, "wants", lambda *_: Wants(whole_row=True))
            monkeypatch.setattr(Sampler, "pick", _needs_row)
        request = requests.add([1, 2, 3], params)
        while len(requests):
            requests.step()
        texts.append(request.outputs[0].token_ids)
    assert texts[0] == texts[1] and len(texts[0]) == 27


def _needs_row(*_: object) -> None:
    raise NeedsRow
