"""A server on a free port of loopback, in a thread, over a fake session or another opened model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from tests.fake_engine import greedy
from tests.fake_session import LIMITS, FakeRun, demo_model, fake_opened
from tests.patience import PATIENCE
from tplaunch.coordinator.server.app import make_app
from tplaunch.coordinator.server.listening import HttpServer, listen, url_of
from tplaunch.coordinator.serving.kv_memory import LayerKinds
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.text.detokenizer import Detokenizer
from tplaunch.coordinator.text.tokenizer import load_tokenizer

T = TypeVar("T")
DRAIN_SECONDS = 3600.0  # more than any test waits
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

    @contextlib.contextmanager
    def one_by_one(self) -> Iterator[None]:
        """Has the server send what it heard of a step before the next one runs.

        A stream joins what comes faster than it is sent, so that on a busy machine tokens may come in one
        piece.
        """

        async def turns() -> None:
            for _ in range(16):  # whoever waits for news, and whoever waits for these
                await asyncio.sleep(0)

        requests = self.opened.driver.session.requests
        step = requests.step

        def step_alone() -> Any:
            asyncio.run_coroutine_threadsafe(turns(), self.loop).result(PATIENCE)
            return step()

        requests.step = step_alone  # type: ignore[method-assign]
        try:
            yield
        finally:
            requests.step = step  # type: ignore[method-assign]

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Holds the event loop: what clients send meanwhile is there when it takes their connections."""
        is_held, goes_on = threading.Event(), threading.Event()

        def hold() -> None:
            is_held.set()
            goes_on.wait(PATIENCE)

        self.loop.call_soon_threadsafe(hold)
        assert is_held.wait(PATIENCE)
        try:
            yield
        finally:
            goes_on.set()

    def connect(self) -> socket.socket:
        """Returns a connection without words, which is to be closed."""
        return socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), PATIENCE)

    def drain(self) -> None:
        """Lets what runs end, and nothing new begin."""
        self.loop.call_soon_threadsafe(self.app.state.ends.drain)

    def await_end(self) -> None:
        """Waits until the server has ended, as it was told to."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def client(self) -> httpx.Client:
        """Returns a client, which is to be closed."""
        return httpx.Client(base_url=self.url, timeout=240)

    def in_loop(self, make: Callable[[], T]) -> T:
        """Returns what is made in the server's event loop."""

        async def made() -> T:
            return make()

        return asyncio.run_coroutine_threadsafe(made(), self.loop).result(PATIENCE)

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
        thread = threading.Thread(
            target=lambda: run_in(loop, server.serve_on(bound, DRAIN_SECONDS)), name="server"
        )
        thread.start()
        try:
            assert has_started.wait(PATIENCE)
            yield Served(url, opened, app, run, loop, thread)
        finally:
            with contextlib.suppress(RuntimeError):  # it has ended, and closed its loop
                loop.call_soon_threadsafe(app.state.ends.stop)
            thread.join(PATIENCE)
            if run is not None:
                opened.close()
            assert not thread.is_alive()
