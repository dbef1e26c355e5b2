"""The driver on a fake session: what is submitted, cancelled and closed by other threads."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import pytest

from tests.fake_session import LIMITS, FakeRun
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.driver import IDLE_SECONDS, Driver, Job, Listener
from tplaunch.coordinator.serving.failures import ClosedError, RunError
from tplaunch.coordinator.serving.request import Event, RequestError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.launcher.session import Session

pytestmark = pytest.mark.unit

SHORT = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
LONG = SamplingParams(temperature=0, max_tokens=50, ignore_eos=True)
SECONDS = 30  # for what takes milliseconds


class Heard(Listener):
    """Keeps all that it hears. With `holds` set the driver waits in `take` until `goes_on` is."""

    def __init__(self) -> None:
        self.steps: list[Sequence[tuple[Job, Event]]] = []
        self.failures: list[tuple[Job, Exception]] = []
        self.holds = False
        self.is_held, self.goes_on, self.is_over = (threading.Event() for _ in range(3))

    def take(self, events: Sequence[tuple[Job, Event]]) -> None:
        self.steps.append(events)
        if self.holds:
            self.is_held.set()
            assert self.goes_on.wait(SECONDS)
        if all(event.request.is_finished for _, event in events):
            self.is_over.set()

    def fail(self, job: Job, error: Exception) -> None:
        self.failures.append((job, error))
        self.is_over.set()

    def wait(self) -> None:
        assert self.is_over.wait(SECONDS)


@pytest.fixture
def run() -> FakeRun:
    return FakeRun()


@pytest.fixture
def driver(run: FakeRun) -> Iterator[Driver]:
    made = Driver(run.open)
    yield made
    made.close()
    assert run.has_ended


def job(listener: Listener, *tokens: int, params: SamplingParams = SHORT, id: str | None = None) -> Job:
    return Job(tokens or (1, 2, 3), params, listener, id)


def finish(driver: Driver) -> None:
    """Has something computed after all that was asked for before."""
    last = Heard()
    driver.submit([job(last, 7)])
    last.wait()
    assert not last.failures


def num_open(run: FakeRun) -> int:
    assert run.session is not None
    return len(run.session.requests)


def num_rows(run: FakeRun) -> int:
    assert run.channel is not None
    return run.channel.num_rows


def test_a_step_is_told_at_once(driver: Driver) -> None:
    heard = Heard()
    jobs = [job(heard, 1, 2), job(heard, 3, 4)]
    driver.submit(jobs)
    heard.wait()
    assert [[one for one, _ in events] for events in heard.steps] == [jobs] * 4
    assert all(one.request is not None and len(one.request.outputs[0].token_ids) == 4 for one in jobs)


def test_texts_that_end_in_one_step_are_all_told(driver: Driver) -> None:
    heard = Heard()
    driver.submit([job(heard, params=SamplingParams(n=3, max_tokens=2, ignore_eos=True))])
    heard.wait()
    assert [event.index for _, event in heard.steps[-1]] == [0, 1, 2]


def test_one_that_cannot_be_computed_fails_alone(driver: Driver) -> None:
    heard, other = Heard(), Heard()
    bad = job(heard, 99_999)
    driver.submit([bad, job(other)])
    heard.wait()
    other.wait()
    assert heard.failures[0][0] is bad and isinstance(heard.failures[0][1], RequestError)
    assert not other.failures


def test_together_means_all_or_none(driver: Driver, run: FakeRun) -> None:
    heard = Heard()
    driver.submit([job(heard), job(heard, 99_999), job(heard)], together=True)
    heard.wait()
    assert len(heard.failures) == 1 and not heard.steps
    assert not num_open(run) and not num_rows(run)


def test_cancelling_is_silent_and_at_once(driver: Driver, run: FakeRun) -> None:
    heard = Heard()
    heard.holds = True
    running, waiting = job(heard, params=LONG), job(heard, params=LONG)
    driver.submit([running])
    assert heard.is_held.wait(SECONDS)
    driver.submit([waiting])
    driver.cancel([running, waiting])
    heard.goes_on.set()
    finish(driver)
    assert len(heard.steps) == 1 and not heard.failures and not num_open(run)
    driver.cancel([running])  # again, which changes nothing


@pytest.mark.parametrize(
    ("max_sequences", "max_rows", "prompt_length", "num_computed"),
    [(1, 64, 40, 0), (2, 8, 40, 5 + 7), (2, 64, 40, 40 + 1)],
    ids=["in the queue", "between chunks of prefill", "in decode"],
)
def test_cancelling_takes_effect_with_the_next_step(
    max_sequences: int, max_rows: int, prompt_length: int, num_computed: int
) -> None:
    run = FakeRun(dataclasses.replace(LIMITS, max_sequences=max_sequences, max_rows=max_rows))
    driver, company, heard = Driver(run.open), Heard(), Heard()
    company.holds = True
    cancelled = job(heard, *range(1, 1 + prompt_length), params=LONG)
    driver.submit([job(company, params=SHORT), cancelled])
    assert company.is_held.wait(SECONDS)
    driver.cancel([cancelled])
    num_before = num_rows(run)
    company.goes_on.set()
    company.wait()
    driver.close()
    # The other one's prompt, its first token in the step that runs meanwhile, and two more.
    assert num_before == 3 + 1 + num_computed and num_rows(run) == num_before + 2
    # The step that ran is told, and no later one.
    assert len(heard.steps) == (num_computed > prompt_length) and not heard.failures and not num_open(run)


def test_a_failed_rank_reaches_all_and_the_next(run: FakeRun) -> None:
    driver = Driver(run.open)
    assert run.channel is not None
    heard, other = Heard(), Heard()
    heard.holds = True
    driver.submit([job(heard, params=LONG)])
    assert heard.is_held.wait(SECONDS)
    run.channel.failing[1] = "out of memory"
    driver.submit([job(other), job(other)])  # not begun when it fails, perhaps
    heard.goes_on.set()
    heard.wait()
    driver.close()
    sentence = "rank 1 failed: out of memory; its log: nowhere"
    errors = [error for _, error in heard.failures + other.failures]
    assert [str(error) for error in errors] == [sentence] * 3 and {type(error) for error in errors} == {
        RunError
    }
    assert len(set(map(id, errors))) == 3
    with pytest.raises(ClosedError, match=f"load it again: {sentence}"):
        driver.submit([job(heard)])
    driver.cancel([job(heard)])


def test_a_rank_that_ends_while_nothing_is_computed(run: FakeRun) -> None:
    driver, looked = Driver(run.open), threading.Event()

    def end() -> None:
        looked.set()
        raise WorkerError(0, "rank 0 ended")

    run.on_look = end
    assert looked.wait(SECONDS + IDLE_SECONDS)
    driver._thread.join(SECONDS)
    with pytest.raises(ClosedError, match="rank 0 ended"):
        driver.submit([job(Heard())])
    driver.close()


def test_closing_tells_those_who_wait(run: FakeRun) -> None:
    driver, heard = Driver(run.open), Heard()
    heard.holds = True
    driver.submit([job(heard, params=LONG)])
    assert heard.is_held.wait(SECONDS)
    closers = [threading.Thread(target=driver.close) for _ in range(2)]
    for thread in closers:
        thread.start()
    heard.goes_on.set()
    for thread in closers:
        thread.join(SECONDS)
    assert run.has_ended and isinstance(heard.failures[0][1], ClosedError)
    with pytest.raises(ClosedError, match="the model was closed"):
        driver.submit([job(heard)])
    driver.close()


def test_a_listener_that_fails_ends_its_own_jobs_only(driver: Driver, run: FakeRun) -> None:
    class Gone(Heard):
        def take(self, events: Sequence[tuple[Job, Event]]) -> None:
            raise RuntimeError("the event loop is closed")

    gone, heard = Gone(), Heard()
    driver.submit([job(gone, params=LONG), job(heard)])
    heard.wait()
    gone.wait()
    finish(driver)
    assert not num_open(run) and len(heard.steps) == 4


def test_what_opening_raises_is_raised_here() -> None:
    def fail(check_open: Callable[[], None]) -> AbstractContextManager[Session]:
        raise RunError("rank 0 did not start")

    with pytest.raises(RunError, match="rank 0 did not start"):
        Driver(fail)


@pytest.mark.parametrize("runs_before", [True, False])
def test_ctrl_c_while_its_thread_starts(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch, runs_before: bool
) -> None:
    """It leaves nobody to close the driver: a session that is open ends, and none is opened any more."""
    start, threads, opened = threading.Thread.start, list[threading.Thread](), threading.Event()
    run.on_load = lambda channel: opened.set()

    def interrupted(thread: threading.Thread) -> None:
        threads.append(thread)
        if runs_before:
            start(thread)
            assert opened.wait(SECONDS)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Driver(run.open)
    if not runs_before:
        start(threads[0])
    threads[0].join(SECONDS)
    assert not threads[0].is_alive() and run.has_ended == opened.is_set() == runs_before


def test_the_thread_that_opened_may_end(run: FakeRun) -> None:
    made: list[Driver] = []
    thread = threading.Thread(target=lambda: made.append(Driver(run.open)))
    thread.start()
    thread.join(SECONDS)
    finish(made[0])
    made[0].close()


def test_no_step_is_left_on_its_way_while_nothing_is_asked_for() -> None:
    """Steps that two stages still compute when all is cancelled would last until the next request."""
    run = FakeRun(num_stages=2)
    looked, cancelled = threading.Event(), threading.Event()
    run.on_look = looked.set
    driver = Driver(run.open)

    class Impatient(Heard):
        def take(self, events: Sequence[tuple[Job, Event]]) -> None:
            super().take(events)
            if len(self.steps) == 2:  # both texts have begun, and go on in steps of their own
                looked.clear()
                driver.cancel(jobs)
                cancelled.set()

    jobs = [job(Impatient(), *range(1, 4 + count), params=LONG) for count in range(2)]
    driver.submit(jobs)
    assert cancelled.wait(SECONDS) and looked.wait(SECONDS)
    assert run.session is not None and not run.session.requests._flights
    driver.close()
