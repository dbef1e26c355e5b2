"""Ranks that fail and come back: requests go on from what they have, to the tokens that they would get."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_session import FakeRun
from tests.models import examples
from tests.unit.test_driver import LONG, SECONDS, SHORT, Heard, finish, job
from tplaunch.coordinator.serving.driver import Driver, Job, Listener
from tplaunch.coordinator.serving.failures import ClosedError, LastingError, RunError
from tplaunch.coordinator.serving.request import Event, Floats, Output, Reading, Request
from tplaunch.coordinator.serving.restarts import RestartPolicy, Restarts
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.serving.sampling.pool import NeedsRow
from tplaunch.coordinator.serving.sampling.sampler import Sampler
from tplaunch.coordinator.split.limits import Limits

pytestmark = pytest.mark.unit

AT_ONCE = RestartPolicy(delays=(0.0,))
OFTEN = RestartPolicy(most=100, delays=(0.0,))
TIGHT = Limits(
    context_length=48, num_blocks=18, block_length=4, max_rows=12, max_logit_rows=5, max_sequences=4
)
WAYS = {
    "greedy": SamplingParams(temperature=0, max_tokens=9, ignore_eos=True),
    "seeded": SamplingParams(seed=3, max_tokens=7, logprobs=2),
    "many": SamplingParams(seed=4, max_tokens=6, n=3, ignore_eos=True),
    "penalized": SamplingParams(seed=5, max_tokens=8, repetition_penalty=1.3, top_k=5, top_p=0.9),
    "whole rows": SamplingParams(seed=6, max_tokens=5, temperature=3.0, top_k=0, top_p=1.0, min_p=0.0),
    "of the prompt": SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=1),
    "ends": SamplingParams(seed=7, max_tokens=20, n=2),
}


class Collected(Listener):
    """Keeps what is told of each job, and says once all are over."""

    def __init__(self, num_jobs: int) -> None:
        self.outputs: dict[tuple[Job, int], Output] = {}
        self.failures: dict[Job, Exception] = {}
        self._num_open, self._is_over = num_jobs, threading.Event()
        if not num_jobs:
            self._is_over.set()

    def take(self, events: Sequence[tuple[Job, Event]]) -> None:
        for of, event in events:
            output = self.outputs.setdefault((of, event.index), Output(event.index))
            assert output.finish_reason is None, "news of a text that has ended"
            output.token_ids += () if event.token is None else (event.token,)
            output.text += event.text
            output.finish_reason = event.finish_reason
        self._end(len({of for of, event in events if event.finish_reason and event.request.is_finished}))

    def fail(self, job: Job, error: Exception) -> None:
        self.failures[job] = error
        self._end(1)

    def _end(self, count: int) -> None:
        self._num_open -= count
        if not self._num_open:
            self._is_over.set()

    def wait(self) -> None:
        assert self._is_over.wait(SECONDS)


@dataclass(frozen=True)
class Wish:
    """A drawn job."""

    way: str
    first: int  # token of the prompt
    length: int


def computed(
    wishes: Sequence[Wish], deaths: Sequence[int], num_stages: int = 1
) -> tuple[list[Job], Collected, int]:
    """Returns what came of the wishes, and how often the ranks were started again."""
    run, heard = FakeRun(TIGHT, deaths, num_stages=num_stages), Collected(len(wishes))
    driver = Driver(run.open, OFTEN)
    jobs = [
        Job(range(1 + wish.first, 1 + wish.first + wish.length), WAYS[wish.way], heard) for wish in wishes
    ]
    driver.submit(jobs)
    heard.wait()
    finish_without_deaths(driver, run)
    assert driver.health().is_ok
    num_restarts = driver.stats().num_restarts
    driver.close()
    return jobs, heard, num_restarts


def finish_without_deaths(driver: Driver, run: FakeRun) -> None:
    """Waits until the driver has nothing left to do, with ranks that live on."""
    asked = threading.Event()

    class Asking(Heard):
        def begin(self, job: Job) -> None:
            assert run.channel is not None
            run.channel.fails_after, run._deaths = None, iter(())
            asked.set()

    last = Asking()
    driver.submit([job(last, 7)])
    last.wait()
    assert asked.is_set() and not last.failures


def request_of(job: Job) -> Request:
    assert job.request is not None
    return job.request


@given(
    wishes=st.lists(
        st.builds(Wish, st.sampled_from([*WAYS]), st.integers(0, 3), st.integers(1, 30)),
        min_size=1,
        max_size=6,
    ),
    deaths=st.lists(st.integers(0, 60), max_size=6),
    num_stages=st.sampled_from([1, 1, 2, 3]),
)
@examples(60)
def test_no_token_is_lost_and_none_comes_twice(
    wishes: list[Wish], deaths: list[int], num_stages: int
) -> None:
    plain_jobs, plain, _ = computed(wishes, ())
    jobs, heard, num_restarts = computed(wishes, deaths, num_stages)
    assert num_restarts <= len(deaths) and (not heard.failures or num_restarts >= 2)
    for one, other in zip(plain_jobs, jobs, strict=True):
        if other in heard.failures:
            assert "failed twice at this request" in str(heard.failures[other])
        for index, expected in enumerate(request_of(one).outputs):
            found = heard.outputs.get((other, index), Output(index))
            if other in heard.failures:
                assert found.token_ids == expected.token_ids[: len(found.token_ids)]
            else:
                assert vars(found) == vars(plain.outputs[one, index])
                assert vars(request_of(other).outputs[index]) == vars(expected)
        if other not in heard.failures:
            assert request_of(other).prompt_logprobs == request_of(one).prompt_logprobs


def test_the_whole_of_it_in_one_example() -> None:
    """Eight requests, more than have a seat, and ranks that fail in the prompt, in decode and while idle."""
    wishes = [Wish(way, index, 7 + index) for index, way in enumerate(WAYS)]
    plain_jobs, plain, _ = computed(wishes, ())
    jobs, heard, num_restarts = computed(wishes, (9, 21, 30))
    assert num_restarts == 3 and not heard.failures
    found, expected = (
        [vars(told.outputs[one, 0]) for one in all_jobs]
        for told, all_jobs in ((heard, jobs), (plain, plain_jobs))
    )
    assert found == expected


@pytest.mark.parametrize("death", range(2, 16))
def test_ranks_that_fail_when_whole_rows_are_fetched(death: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts of one prompt have begun then, and have no token; and others may have ended in that step."""

    def needs_row(*_: object) -> None:
        raise NeedsRow

    monkeypatch.setattr(Sampler, "pick", needs_row)
    monkeypatch.setattr(Sampler, "_is_plain", lambda _: False)
    wishes = [Wish("many", 0, 5), Wish("of the prompt", 1, 4), Wish("many", 2, 3)]
    plain_jobs, _, _ = computed(wishes, ())
    jobs, heard, num_restarts = computed(wishes, (death,))
    assert num_restarts == 1 and not heard.failures
    for one, other in zip(plain_jobs, jobs, strict=True):
        found, expected = request_of(other), request_of(one)
        assert [*map(vars, found.outputs)] == [*map(vars, expected.outputs)]
        assert found.prompt_logprobs == expected.prompt_logprobs


def test_logits_come_once_where_ranks_fail_between_chunks() -> None:
    found = []
    for deaths in ((), (6,)):
        run, heard = FakeRun(TIGHT, deaths), Heard()
        driver = Driver(run.open, AT_ONCE)
        rows: dict[int, bytes] = {}

        def take(position: int, row: Floats, rows: dict[int, bytes] = rows) -> None:
            assert position not in rows, "a position that came twice"
            rows[position] = row.tobytes()

        reading = Reading(take_row=take)
        wanted = Job(range(1, 31), SHORT, heard, reading=reading)
        driver.submit([wanted])
        heard.wait()
        assert driver.stats().num_restarts == len(deaths)
        driver.close()
        found.append(rows)
    assert len(found[0]) == 30 and found[0] == found[1]


def test_ranks_that_fail_while_nothing_is_computed() -> None:
    from tplaunch.coordinator.serving.channel import WorkerError

    run, is_back = FakeRun(), threading.Event()
    driver = Driver(run.open, AT_ONCE)

    def end() -> None:
        run.on_look = is_back.set
        raise WorkerError(0, "rank 0 ended")

    run.on_look = end
    assert is_back.wait(SECONDS)
    finish(driver)
    assert driver.health().is_ok and driver.stats().num_restarts == 1
    driver.close()


def test_counters_go_on_after_a_restart() -> None:
    run = FakeRun(deaths=(10,))
    driver, heard = Driver(run.open, AT_ONCE), Heard()
    driver.submit([job(heard, params=LONG)])
    heard.wait()
    finish(driver)
    stats = driver.stats()
    assert stats.num_restarts == 1 and stats.num_generated_tokens == 54 and stats.num_steps == 54
    assert stats.num_prompt_tokens == 3 + 3 + 1
    assert [rank["handover"] * 1e6 for rank in stats.rank_seconds] == pytest.approx([53, 53])
    driver.close()


def test_a_request_at_which_ranks_fail_twice_is_not_tried_again() -> None:
    run, heard = FakeRun(deaths=(4, 0)), Heard()
    driver = Driver(run.open, AT_ONCE)
    driver.submit([job(heard, params=LONG)])
    heard.wait()
    ((_, error),) = heard.failures
    assert isinstance(error, RunError)
    assert str(error) == (
        "the ranks failed twice at this request, which is not tried again:"
        " rank 0 failed: it was told to; its log: nowhere"
    )
    finish(driver)
    assert driver.health().is_ok and len(heard.steps) == 2 and not driver.stats().is_busy
    driver.close()


def test_restarts_have_a_limit() -> None:
    run, heard = FakeRun(deaths=(4, 4, 4, 4)), Heard()
    driver = Driver(run.open, AT_ONCE)
    driver.submit([job(heard, params=LONG)])
    heard.wait()
    sentence = (
        "rank 0 failed: it was told to; its log: nowhere; the ranks are not started again:"
        " 3 restarts within 600 s are the most"
    )
    assert [str(error) for _, error in heard.failures] == [sentence]
    assert len(heard.steps) == 8 and driver.health().state == "ended"
    with pytest.raises(ClosedError, match="not started again"):
        driver.submit([job(heard)])
    driver.close()


@pytest.mark.parametrize("is_loading", [False, True])
def test_what_a_restart_can_not_cure_ends_the_run_at_once(is_loading: bool) -> None:
    run, heard, num_opened = FakeRun(deaths=(4,)), Heard(), 0
    sentence = "the copy of the model on host 1 (beta) has changed"
    ended: list[BaseException] = []

    def on_open(check_open: Callable[[], None]) -> None:
        nonlocal num_opened
        num_opened += 1
        if is_loading and num_opened > 1:
            raise LastingError(sentence)

    def on_end() -> None:
        if not is_loading:
            raise LastingError(sentence)

    run.on_open, run.on_end = on_open, on_end
    driver = Driver(run.open, AT_ONCE, ended.append)
    driver.submit([job(heard, params=LONG)])
    heard.wait()
    assert [str(error) for _, error in heard.failures] == [sentence]
    assert num_opened == 1 + is_loading and driver.health().state == "ended"
    driver.close()
    assert [type(error) for error in ended] == [LastingError]


def test_ranks_that_fail_while_they_load_are_started_again() -> None:
    run, heard = FakeRun(deaths=(4,)), Heard()
    fails = iter([False, True, True, False])

    def on_open(check_open: Callable[[], None]) -> None:
        if next(fails):
            raise RunError("rank 1 ended while it loaded")

    run.on_open = on_open
    driver = Driver(run.open, AT_ONCE)
    driver.submit([job(heard, params=LONG)])
    heard.wait()
    assert not heard.failures and len(heard.steps) == 50 and driver.stats().num_restarts == 3
    driver.close()


def test_what_is_asked_for_during_a_restart() -> None:
    """Health is red at once; requests come and go, and are told; those that stay are computed."""
    run, states = FakeRun(deaths=(4,)), []
    is_opening, goes_on = threading.Event(), threading.Event()

    def on_open(check_open: Callable[[], None]) -> None:
        while is_opening.is_set() and not goes_on.wait(0.01):
            check_open()

    run.on_open = on_open
    driver = Driver(run.open, AT_ONCE)
    run.on_end = lambda: states.append(driver.health())
    first, second, third = Heard(), Heard(), Heard()
    begun = threading.Event()
    third.begin = lambda job: begun.set()  # type: ignore[method-assign]
    is_opening.set()
    cancelled, later = job(first, params=LONG), job(third, 5, 6)
    driver.submit([cancelled, job(second, params=LONG)])
    driver.submit([later])
    driver.cancel([cancelled])
    assert begun.wait(SECONDS)
    goes_on.set()
    second.wait()
    third.wait()
    assert [one.state for one in states] == ["restarting"] and states[0].reason == (
        "rank 0 failed: it was told to"
    )
    assert not first.failures and not second.failures and not third.failures
    assert len(first.steps) < 50 and len(second.steps) == 50
    driver.close()


@pytest.mark.parametrize("delay", [0.0, 1e6], ids=["while it loads", "while it waits"])
def test_closing_during_a_restart(delay: float) -> None:
    run, heard, is_down = FakeRun(deaths=(4,)), Heard(), threading.Event()
    num_opened = 0

    def on_open(check_open: Callable[[], None]) -> None:
        nonlocal num_opened
        num_opened += 1
        while num_opened > 1:
            check_open()

    run.on_open, run.on_end = on_open, is_down.set
    driver = Driver(run.open, RestartPolicy(delays=(delay,)))
    driver.submit([job(heard, params=LONG)])
    assert is_down.wait(SECONDS)
    driver.close()
    ((_, error),) = heard.failures
    assert isinstance(error, ClosedError) and driver.health().state == "ended"


def test_how_often_and_when() -> None:
    now = 0.0
    restarts = Restarts(RestartPolicy(), lambda: now)
    assert [restarts.delay() for _ in range(4)] == [0.0, 2.0, 8.0, None]
    now = 599.0
    assert restarts.delay() is None
    now = 600.0
    assert restarts.delay() == 0.0 and restarts.num == 4
    assert Restarts(None).delay() is None


def test_only_those_without_a_new_token_are_suspects() -> None:
    stays, grows, ends = (Request(str(n), n, (1,), SHORT) for n in range(3))
    restarts = Restarts(RestartPolicy())
    assert restarts.suspects([stays, grows, ends]) == []
    grows.outputs[0].token_ids.append(1)
    ends.outputs[0].finish_reason = "stop"
    assert restarts.suspects([grows]) == []
    assert restarts.suspects([stays, grows]) == [stays]  # as it has no token, and the other one has
    assert restarts.suspects([grows]) == [grows]
    assert restarts.suspects([grows, stays]) == []
