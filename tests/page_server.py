"""The page on a free port, before a model that says what a test has written for it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

import tplaunch
from tplaunch.coordinator.server.access import OPEN_PATHS
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.forms import error_body
from tplaunch.coordinator.server.page.router import make_page_router
from tplaunch.coordinator.server.page.status import ModelFacts, RankFacts
from tplaunch.coordinator.server.settings import LIMITS
from tplaunch.coordinator.serving.stats import Health, Stats

STATS = Stats(0, 0, 0, 0, 128, 0.0, 0, 0, 0, 0, 0, 0.0, 0, 0, False, None, None, ({}, {}))
HEALTH = Health()
FACTS = ModelFacts(
    "demo-stories",
    tplaunch.__version__,
    True,
    4096,
    (RankFacts("Card A", 0.75), RankFacts("Card B", 0.25)),
)
HOLD = object()  # in a script: nothing more comes until the server is told to go on
BREAK = object()  # in a script: the connection is lost
Piece = str | dict[str, str] | object
Script = Callable[[dict[str, Any]], Iterable[Piece]]


@dataclass
class PageServer:
    """A server that runs, and what it was asked."""

    url: str = ""
    script: Script = lambda body: ["Hello", " there."]
    facts: ModelFacts = FACTS
    stats: Stats = STATS
    health: Health = HEALTH
    key: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)  # a script has come to HOLD
    gone: threading.Event = field(default_factory=threading.Event)  # a client has left while it waited
    go_on: threading.Event = field(default_factory=threading.Event)

    def work(self, steps: int, tokens: int, prompt_tokens: int = 0, **changes: Any) -> None:
        """Lets the counters grow as steps of 20 ms make them, of which two ranks compute 12 and 6."""
        old, seconds = self.stats, 0.02 * steps
        parts = {"wait": 0.1, "reduce": 0.15, "submit": 0.05, "host": 0.03}
        ranks = []
        for rank, device in zip(old.rank_seconds, (0.6, 0.3)):
            spent = {**parts, "device": device, "wait": 0.1 + 0.6 - device}
            ranks.append({kind: rank.get(kind, 0.0) + seconds * part for kind, part in spent.items()})
        self.stats = replace(
            old,
            num_steps=old.num_steps + steps,
            step_seconds=old.step_seconds + seconds,
            num_generated_tokens=old.num_generated_tokens + tokens,
            num_prompt_tokens=old.num_prompt_tokens + prompt_tokens,
            rank_seconds=tuple(ranks),
            **changes,
        )


def make_app(server: PageServer) -> FastAPI:
    """The page's own routes, and the two of OpenAI's that it calls."""

    def check_key(request: Request) -> None:
        sent = request.headers.get("authorization")
        if (
            server.key is not None
            and sent != f"Bearer {server.key}"
            and not OPEN_PATHS.fullmatch(request.url.path)
        ):
            raise ApiError(401, "the key is wrong")

    app = FastAPI(dependencies=[Depends(check_key)])
    app.state.service, app.state.limits = _service(server), LIMITS

    @app.exception_handler(ApiError)
    async def told(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error_body(request.url.path, error), error.status)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        body = await request.json()
        server.bodies.append(body)
        pieces = iter(server.script(body))
        return StreamingResponse(_events(server, pieces, _chat_choice), media_type="text/event-stream")

    @app.post("/v1/completions")
    async def completions(request: Request) -> StreamingResponse:
        body = await request.json()
        server.bodies.append(body)
        pieces = iter(server.script(body))
        return StreamingResponse(_events(server, pieces, _text_choice), media_type="text/event-stream")

    app.include_router(make_page_router())
    return app


def _service(server: PageServer) -> Any:
    """Stands for the served model, as far as the page asks of it."""
    facts = server.facts
    shares = [SimpleNamespace(vocabulary=range(round(100 * rank.share))) for rank in facts.ranks]
    engine = SimpleNamespace(plan=shares, devices=[rank.device for rank in facts.ranks])
    session = SimpleNamespace(engine=engine, limits=SimpleNamespace(context_length=facts.context_length))
    driver = SimpleNamespace(session=session, stats=lambda: server.stats, health=lambda: server.health)
    opened = SimpleNamespace(driver=driver, template_source="" if facts.has_template else None)
    return _Service(facts.name, opened)


@dataclass(eq=False)
class _Service:
    name: str
    opened: Any


def _chat_choice(piece: str | dict[str, str]) -> dict[str, Any]:
    return {"delta": {"content": piece} if isinstance(piece, str) else piece}


def _text_choice(piece: str | dict[str, str]) -> dict[str, Any]:
    return {"text": piece}


async def _events(
    server: PageServer,
    pieces: Iterator[Piece],
    choice: Callable[[str | dict[str, str]], dict[str, Any]],
) -> AsyncIterator[str]:
    count, reason = 0, "stop"
    try:
        for piece in pieces:
            if piece is BREAK:
                raise ConnectionError("as a test wants it")
            if piece is HOLD:
                server.held.set()
                while not server.go_on.is_set():
                    await asyncio.sleep(0.005)
                continue
            assert isinstance(piece, str | dict)
            if isinstance(piece, dict) and "finish_reason" in piece:
                reason = piece["finish_reason"]
                continue
            if isinstance(piece, dict) and "error" in piece:
                yield _event({"error": {"message": piece["error"]}})
                return
            count += 1
            yield _event({"choices": [{"index": 0, **choice(piece), "finish_reason": None}]})
            await asyncio.sleep(0)
        yield _event({"choices": [{"index": 0, **choice(""), "finish_reason": reason}]})
        yield _event({"choices": [], "usage": {"prompt_tokens": 21, "completion_tokens": count}})
        yield "data: [DONE]\n\n"
    except (asyncio.CancelledError, GeneratorExit):
        server.gone.set()
        raise


def _event(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event)}\n\n"


@contextmanager
def serve(server: PageServer, app: FastAPI | None = None) -> Iterator[PageServer]:
    """Runs an app in a thread, by default the scripted one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        config = uvicorn.Config(app or make_app(server), log_level="critical", timeout_graceful_shutdown=1)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            running.should_exit = True
            thread.join()
