"""How a server ends: those that run go on for a while, new ones are refused, and a second word ends all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving import GREEDY, Served, served


@pytest.fixture
def server() -> Iterator[Served]:
    with served() as running:
        yield running


class Held:
    """Holds the engine between two steps."""

    def __init__(self, server: Served) -> None:
        assert server.run is not None and server.run.session is not None
        self.has_stepped, self.may_go_on = threading.Event(), threading.Event()
        self._step = server.run.session.requests.step
        server.run.session.requests.step = self._held  # type: ignore[method-assign]

    def _held(self) -> Any:
        events = self._step()
        self.has_stepped.set()
        assert self.may_go_on.wait(30)
        return events


def asked(server: Served, answers: list[httpx.Response], **fields: Any) -> threading.Thread:
    body = {"prompt": [5], "max_tokens": 20, **GREEDY, **fields}
    thread = threading.Thread(target=lambda: answers.append(server.post("/v1/completions", **body)))
    thread.start()
    return thread


def test_a_drain_lets_what_runs_end(server: Served) -> None:
    held, answers = Held(server), list[httpx.Response]()
    thread = asked(server, answers)
    assert held.has_stepped.wait(30)
    server.loop.call_soon_threadsafe(server.app.state.ends.drain)
    while server.get("/health").status_code == 200:
        pass
    assert server.get("/health").json()["status"] == "draining"
    refused = server.post("/v1/completions", prompt=[5])
    assert refused.status_code == 503 and refused.headers["retry-after"]
    held.may_go_on.set()
    thread.join(30)
    assert answers[0].status_code == 200 and answers[0].json()["usage"]["completion_tokens"] == 20
    server.thread.join(30)
    assert not server.thread.is_alive() and not server.app.state.ends.was_cut


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_tells_those_that_run(server: Served, stream: bool) -> None:
    held, answers = Held(server), list[httpx.Response]()
    thread = asked(server, answers, stream=stream)
    assert held.has_stepped.wait(30)
    server.loop.call_soon_threadsafe(server.app.state.ends.drain)
    server.loop.call_soon_threadsafe(server.app.state.ends.stop)
    thread.join(30)
    held.may_go_on.set()
    server.thread.join(30)
    assert not server.thread.is_alive() and server.app.state.ends.was_cut
    if stream:
        *_, error, done = [part for part in answers[0].text.split("\n\n") if part]
        assert done == "data: [DONE]"
        assert "the server ends" in json.loads(error.removeprefix("data: "))["error"]["message"]
    else:
        assert answers[0].status_code == 503 and "the server ends" in answers[0].text
