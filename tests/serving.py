"""A server on a free port of loopback, in a thread, over a fake session or another opened model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from tests.fake_engine import greedy
from tests.fake_session import LIMITS, FakeRun, demo_model, fake_opened
from tplaunch.coordinator.server.app import make_app
from tplaunch.coordinator.server.listening import HttpServer, listen, url_of
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.text.detokenizer import Detokenizer
from tplaunch.coordinator.text.tokenizer import load_tokenizer

T = TypeVar("T")
NAME = "fake"
GREEDY = {"temperature": 0, "ignore_eos": True}
TOKENIZER = load_tokenizer(demo_model().metadata)
ECHO = "{% for message in messages %}{{ message.content }}{% endfor %}"  # a template for any model


def expected(prompt: Sequence[int], count: int) -> str:
    """Returns the text of so many of the fake model's likeliest tokens behind a prompt."""
    detokenizer = Detokenizer(TOKENIZER)
    tokens = greedy(prompt, LayerKinds(), count, demo_model().spec.vocabulary_size)
    return "".join(map(detokenizer.push, tokens)) + detokenizer.finish()


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Returns the events of a stream in OpenAI's form, without the one that ends it."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    url: str
    opened: Opened
    app: Any  # the application
    run: FakeRun | None
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    def client(self) -> httpx.Client:
        """Returns a client, which is to be closed."""
        return httpx.Client(base_url=self.url, timeout=240)

    def in_loop(self, make: Callable[[], T]) -> T:
        """Returns what is made in the server's event loop."""

        async def made() -> T:
            return make()

        return asyncio.run_coroutine_threadsafe(made(), self.loop).result(30)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Asks for something with a body of these fields."""
        with self.client() as client:
            return client.post(path, json=body)

    def get(self, path: str) -> httpx.Response:
        """Asks for something."""
        with self.client() as client:
            return client.get(path)


def run_in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(work)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@contextlib.contextmanager
def served(
    opened: Opened | None = None,
    limits: Limits = LIMITS,
    metadata: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[Served]:
    """Serves a model, or a fake one with these limits and metadata; options: make_app's.

    Clients may bring chat templates, as the fake model has none, unless the options say otherwise.
    """
    run = FakeRun(limits) if opened is None else None
    if opened is None:
        assert run is not None
        opened = fake_opened(run, metadata)
    has_started = threading.Event()
    app = make_app(opened, [NAME, "another-name"], **{"trusts_templates": True, **options})
    server = HttpServer(app, has_started.set)
    with listen("127.0.0.1", 0) as bound:
        url = url_of(bound)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: run_in(loop, server.serve_on(bound, 30)), name="server")
        thread.start()
        try:
            assert has_started.wait(30)
            yield Served(url, opened, app, run, loop, thread)
        finally:
            with contextlib.suppress(RuntimeError):  # it has ended, and closed its loop
                loop.call_soon_threadsafe(app.state.ends.stop)
            thread.join(30)
            if run is not None:
                opened.close()
            assert not thread.is_alive()
