"""The page's status: rates and ledgers from the differences of a driver's counters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.page_server import FACTS, STATS, PageServer
from tplaunch.coordinator.server.page.status import Watch
from tplaunch.coordinator.serving.stats import Stats


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_and_ledgers_are_of_the_last_moments() -> None:
    clock, server = Clock(), PageServer()
    watch = Watch(FACTS, lambda: server.stats, clock=clock)
    for _ in range(10):
        clock.now += 1.0
        server.work(steps=50, tokens=100, prompt_tokens=7, num_running=2, num_blocks_used=64, kv_usage=0.5)
        status = watch.status()
    assert status["tokens_per_second"] == {"generated": pytest.approx(100), "prompt": pytest.approx(7)}
    assert status["step"] == {"number": 500, "microseconds": pytest.approx(20_000), "is_running": True}
    assert status["kv"] == {"usage": 0.5, "blocks": 128, "blocks_used": 64}
    assert status["requests"] == {"running": 2, "waiting": 0}
    first, second = (rank["microseconds"] for rank in status["ranks"])
    assert (first["device"], second["device"]) == (pytest.approx(12_000), pytest.approx(6_000))
    assert sum(first.values()) == pytest.approx(20_000)
    assert [rank["share"] for rank in status["ranks"]] == [0.75, 0.25]


def test_an_idle_model_keeps_its_last_ledger() -> None:
    clock, server = Clock(), PageServer()
    watch = Watch(FACTS, lambda: server.stats, clock=clock)
    assert watch.status()["ranks"][0]["microseconds"] == {}
    clock.now += 1.0
    server.work(steps=50, tokens=100)
    assert watch.status()["step"]["is_running"]
    for _ in range(5):
        clock.now += 1.0
        status = watch.status()
    assert status["tokens_per_second"]["generated"] == 0
    assert not status["step"]["is_running"]
    assert status["ranks"][0]["microseconds"]["device"] == pytest.approx(12_000)


def test_many_pages_cost_no_more_than_one() -> None:
    clock, reads = Clock(), []

    def read() -> Stats:
        reads.append(clock.now)
        return STATS

    watch = Watch(FACTS, read, clock=clock)
    for _ in range(100):
        clock.now += 0.01
        watch.status()
    assert len(reads) <= 4


def test_after_a_pause_the_rate_is_of_what_is_computed_now() -> None:
    clock, server = Clock(), PageServer()
    watch = Watch(FACTS, lambda: server.stats, clock=clock)
    clock.now += 3600.0
    watch.status()
    clock.now += 1.0
    server.work(steps=50, tokens=100)
    assert watch.status()["tokens_per_second"]["generated"] == pytest.approx(100)


def test_a_step_that_is_half_counted_has_no_negative_kind() -> None:
    clock, server = Clock(), PageServer()
    watch = Watch(FACTS, lambda: server.stats, clock=clock)
    clock.now += 1.0
    server.work(steps=50, tokens=100)
    server.stats = replace(server.stats, step_seconds=server.stats.step_seconds / 2)
    status = watch.status()
    assert min(min(rank["microseconds"].values()) for rank in status["ranks"]) >= 0
