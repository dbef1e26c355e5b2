"""A short request's first token comes soon, whatever else is computed."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from tests.fake_session import LIMITS
from tests.serving import GREEDY, Served, served

ROOM = replace(LIMITS, context_length=4096, num_blocks=2048, max_rows=256, max_sequences=16)
SHORT = (9, 8, 7)
NUM_DECODING, NUM_LONG, MOST_STEPS = 8, 4000, 3


class Watched:
    """Stops the driver before a step in the midst of the long prompt, and counts the steps from there on."""

    def __init__(self, server: Served) -> None:
        self.requests = server.opened.driver.session.requests
        self.is_held, self.may_go_on = threading.Event(), threading.Event()
        self.num_steps = 0
        self._have_come = False  # all but the short request
        self.num_until_token: int | None = None  # of the short request
        self._step = self.requests.step
        self.requests.step = self.step  # type: ignore[method-assign]

    def step(self) -> Any:
        self._have_come = self._have_come or len(self.requests) == NUM_DECODING + 1
        if not self._have_come:
            return []
        if not self.is_held.is_set() and self.requests.counts.num_prompt_tokens > NUM_LONG / 4:
            self.is_held.set()
            assert self.may_go_on.wait(30)
        self.num_steps += self.is_held.is_set()
        events = self._step()
        if self.num_until_token is None and any(event.request.prompt == SHORT for event in events):
            self.num_until_token = self.num_steps
        return events


def test_it_comes_while_others_decode_and_a_long_prompt_is_computed() -> None:
    bodies = [{"prompt": [5, number], "max_tokens": 300} for number in range(NUM_DECODING)]
    bodies.append({"prompt": [7] * NUM_LONG, "max_tokens": 1})
    found: list[int] = []
    with served(limits=ROOM) as server:
        watched, driver = Watched(server), server.opened.driver

        def ask(body: dict[str, Any]) -> None:
            found.append(server.post("/v1/completions", **body, **GREEDY).status_code)

        threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        assert watched.is_held.wait(30)
        assert driver.stats().num_running == NUM_DECODING + 1
        before = driver.stats().num_prompt_tokens
        last = threading.Thread(target=ask, args=({"prompt": SHORT, "max_tokens": 2, "stream": True},))
        last.start()
        while driver._commands.empty():
            server.get("/health")
        watched.may_go_on.set()
        for thread in (last, *threads):
            thread.join(60)
        assert before < NUM_LONG, "the long prompt was not done yet"
        assert found == [200] * (NUM_DECODING + 2)
        assert watched.num_until_token is not None and watched.num_until_token <= MOST_STEPS
