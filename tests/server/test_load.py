"""Many clients at once on a fake session: each gets what it would get alone, also where ranks die."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.fake_session import LIMITS, FakeRun, demo_model
from tests.load import LEAVINGS, compare, load
from tests.load_cases import TEMPLATE, make_cases
from tests.serving import Served, served
from tplaunch.coordinator.serving.driver import Driver
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.serving.restarts import RestartPolicy
from tplaunch.opening import tokenizer_of

CLIENTS, MOST = 16, 12
ROOM = replace(LIMITS, context_length=256, num_blocks=80)  # less than what all would take


@pytest.fixture
def mortal() -> Iterator[Served]:
    """A server whose ranks die in the middle, twice."""
    metadata = {**demo_model().metadata, "tokenizer.chat_template": TEMPLATE}
    policy = RestartPolicy(delays=(0.0,))
    opened = Opened(Driver(FakeRun(ROOM, deaths=[150, 300]).open, policy), metadata, tokenizer_of(metadata))
    with served(opened) as running:
        yield running
    opened.close()


def test_each_answer_is_that_of_its_single_run(mortal: Served) -> None:
    cases = make_cases(seed=3, count=40, longest=30, most_tokens=12)
    tally = asyncio.run(load(mortal.url, cases, CLIENTS, most=MOST))
    assert tally.faults == []
    assert len(tally.answers) == tally.counts["answers"] > CLIENTS * MOST / 2
    assert all(tally.counts[leaving] for leaving in LEAVINGS)
    assert mortal.opened.driver.stats().num_restarts == 2
    assert asyncio.run(compare(mortal.url, cases, tally)) == []
    stats = mortal.opened.driver.stats()
    assert (stats.num_running, stats.num_waiting, mortal.app.state.service.num_open) == (0, 0, 0)
