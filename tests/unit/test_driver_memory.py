"""Requests that come, are cancelled and end leave nothing in a driver."""

from __future__ import annotations

import gc
import weakref

import pytest

from examples.measure_driver import Load, fake_driver
from tests.unit.test_driver import finish
from tplaunch.coordinator.serving.driver import Job

pytestmark = pytest.mark.unit


def test_nothing_stays_of_requests_that_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are cancelled in the queue, between chunks of prefill and in decode, or not at all."""
    driver = fake_driver(6, num_ranks=2)
    jobs: list[weakref.ref[Job]] = []
    submit = driver.submit

    def noted(given: list[Job]) -> None:
        jobs.append(weakref.ref(given[0]))
        submit(given)

    monkeypatch.setattr(driver, "submit", noted)
    load = Load(driver, 6)
    load.give(200)
    assert load.num_cancelled > 50 and load.num_finished > 50 and not load.num_failed
    monkeypatch.undo()
    finish(driver)
    requests = driver.session.requests
    assert not driver._jobs and not len(requests) and not requests._streams and not len(requests._scheduler)
    assert requests.memory.num_free_seats == requests._limits.max_sequences
    assert all(pool.num_available == pool.size for pool in requests.memory.pools)
    assert driver.stats().kv_usage == 0
    driver.close()
    gc.collect()
    assert len(jobs) == 200 and not [job for job in jobs if job() is not None]
