"""A driver tells other threads of itself: numbers, and whether it is well."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import pytest

from tests.fake_session import LIMITS, FakeRun
from tests.unit.test_driver import LONG, SECONDS, SHORT, Heard, finish, job
from tplaunch.coordinator.measuring.ledger import KINDS
from tplaunch.coordinator.serving.driver import Driver
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams

pytestmark = pytest.mark.unit


@pytest.fixture
def run() -> FakeRun:
    return FakeRun(dataclasses.replace(LIMITS, max_sequences=2))


@pytest.fixture
def driver(run: FakeRun) -> Iterator[Driver]:
    made = Driver(run.open)
    yield made
    made.close()


def test_a_driver_that_has_done_nothing(driver: Driver) -> None:
    stats = driver.stats()
    assert not stats.is_busy and not stats.num_steps and stats.kv_usage == 0 and stats.num_blocks == 128
    assert stats.seconds_in_step is None and stats.seconds_since_step is None and stats.ledger is None
    assert driver.health().is_ok


def test_a_snapshot_while_a_step_runs(driver: Driver) -> None:
    heard = Heard()
    heard.holds = True
    two = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, n=2)
    driver.submit([job(heard, *range(1, 9), params=two), *(job(heard, params=LONG) for _ in range(2))])
    assert heard.is_held.wait(SECONDS)
    first, second = driver.stats(), driver.stats()
    heard.goes_on.set()
    assert (first.num_running, first.num_waiting, first.num_sequences) == (2, 1, 2)
    assert first.is_busy and first.num_blocks_used == 4 and first.kv_usage == 4 / 128
    assert first.seconds_in_step is not None and second.seconds_in_step is not None
    assert 0 < first.seconds_in_step <= second.seconds_in_step and first.seconds_since_step is None
    assert dataclasses.replace(first, seconds_in_step=second.seconds_in_step) == second


def test_counters_cover_all_that_was_computed(driver: Driver) -> None:
    prompt = tuple(range(1, 14))
    for _ in range(2):
        heard = Heard()
        driver.submit([job(heard, *prompt, params=SHORT)])
        heard.wait()
    finish(driver)
    stats = driver.stats()
    assert (stats.cache_tokens_queried, stats.cache_tokens_hit) == (27, 12)
    assert (stats.num_prompt_tokens, stats.num_generated_tokens) == (13 + 1 + 1, 12)
    assert stats.num_steps == 12 and stats.step_seconds > 0 and not stats.num_preemptions
    assert stats.ledger is not None and len(stats.rank_seconds) == 2
    for rank in stats.ledger.ranks:
        assert rank.keys() <= set(KINDS) and sum(rank.values()) == pytest.approx(stats.ledger.step)


def test_a_step_that_takes_too_long_is_a_stall(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    heard.holds = True
    driver.submit([job(heard)])
    assert heard.is_held.wait(SECONDS)
    assert driver.health().is_ok
    now, half = time.monotonic(), driver.session.engine.timeout / 2
    monkeypatch.setattr(time, "monotonic", lambda: now + half + 1)
    stalled = driver.health()
    monkeypatch.undo()
    heard.goes_on.set()
    heard.wait()
    finish(driver)
    assert stalled.state == "stalled" and not stalled.is_ok
    assert "a step has been running for 6 s, and more than 5 s is too long" in (stalled.reason or "")
    assert driver.health().is_ok


def test_health_is_red_before_the_ranks_are_gone(driver: Driver, run: FakeRun) -> None:
    heard, states = Heard(), []
    run.on_end = lambda: states.append(driver.health())
    assert run.channel is not None
    run.channel.failing[1] = "out of memory"
    driver.submit([job(heard)])
    heard.wait()
    assert [(one.state, one.reason) for one in states] == [("ended", "rank 1 failed: out of memory")]
    assert driver.health().state == "ended" and "out of memory; its log" in (driver.health().reason or "")


def test_a_closed_driver_says_so(driver: Driver) -> None:
    driver.close()
    assert driver.health().reason == "the model was closed; load it again to go on"
    assert not driver.stats().is_busy
