"""How a server ends: those that run go on for a while, new ones are refused, and a second word ends all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.patience import PATIENCE
from tests.serving import GREEDY, Served, served


@pytest.fixture
def server() -> Iterator[Served]:
    with served() as running:
        yield running


class Held:
    """Holds the engine between two steps: before the first is told, or once so many texts have ended."""

    def __init__(self, server: Served, num_finished: int | None = None) -> None:
        assert server.run is not None and server.run.session is not None
        self._num_left = num_finished
        self.has_stepped, self.may_go_on = threading.Event(), threading.Event()
        self._step = server.run.session.requests.step
        server.run.session.requests.step = self._held  # type: ignore[method-assign]

    def _held(self) -> Any:
        if self._num_left is not None and self._num_left <= 0:
            self._hold()
        events = self._step()
        if self._num_left is None:
            self._hold()
        else:
            self._num_left -= sum(event.finish_reason is not None for event in events)
        return events

    def _hold(self) -> None:
        self.has_stepped.set()
        assert self.may_go_on.wait(PATIENCE)


def asked(server: Served, answers: list[httpx.Response], **fields: Any) -> threading.Thread:
    body = {"prompt": [5], "max_tokens": 20, **GREEDY, **fields}
    thread = threading.Thread(target=lambda: answers.append(server.post("/v1/completions", **body)))
    thread.start()
    return thread


def test_a_drain_lets_what_runs_end(server: Served) -> None:
    held, answers = Held(server), list[httpx.Response]()
    thread = asked(server, answers)
    assert held.has_stepped.wait(PATIENCE)
    server.drain()
    while server.get("/health").status_code == 200:
        pass
    assert server.get("/health").json()["status"] == "draining"
    refused = server.post("/v1/completions", prompt=[5])
    assert refused.status_code == 503 and refused.headers["retry-after"]
    held.may_go_on.set()
    thread.join(PATIENCE)
    assert answers[0].status_code == 200 and answers[0].json()["usage"]["completion_tokens"] == 20
    server.await_end()
    assert not server.app.state.ends.was_cut


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_tells_those_that_run(server: Served, stream: bool) -> None:
    held, answers = Held(server), list[httpx.Response]()
    thread = asked(server, answers, stream=stream)
    assert held.has_stepped.wait(PATIENCE)
    server.drain()
    server.loop.call_soon_threadsafe(server.app.state.ends.stop)
    thread.join(PATIENCE)
    held.may_go_on.set()
    server.await_end()
    assert server.app.state.ends.was_cut
    if stream:
        *_, error, done = [part for part in answers[0].text.split("\n\n") if part]
        assert done == "data: [DONE]"
        assert "the server ends" in json.loads(error.removeprefix("data: "))["error"]["message"]
    else:
        assert answers[0].status_code == 503 and "the server ends" in answers[0].text
