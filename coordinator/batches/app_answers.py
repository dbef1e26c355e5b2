"""Asks the server's application in this process, without a socket: a body means the same in both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from tplaunch.coordinator.batches.batch_run import Answer

IN_PROCESS = "tplaunch.in_process"  # in a scope: who asks is this process; no client can say so


@asynccontextmanager
async def answers_of(app: FastAPI) -> AsyncIterator[Answer]:
    """Yields what asks the application, which is started for that long."""
    async with app.router.lifespan_context(app):
        yield answer_by(app)


def answer_by(app: FastAPI) -> Answer:
    """Returns what asks an application that runs."""

    async def answer(url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        return await _ask(app, url, json.dumps(body).encode())

    return answer


async def _ask(app: FastAPI, url: str, content: bytes) -> tuple[int, Any]:
    """Returns the status and the body of an answer to a POST."""
    messages = iter([{"type": "http.request", "body": content, "more_body": False}])
    status, parts = 0, []

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await asyncio.Event().wait()  # this client stays until it has its answer
        raise AssertionError("nothing sets the event")

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    headers = {"host": "localhost", "content-type": "application/json", "content-length": str(len(content))}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": url,
        "raw_path": url.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
        IN_PROCESS: True,
    }
    await app(scope, receive, send)
    return status, json.loads(b"".join(parts))
