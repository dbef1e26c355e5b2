"""Clients of Responses and Messages that leave before the end: nothing is computed for them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.scripted import ScriptedService, delta, scripted
from tests.serving import Served
from tplaunch.coordinator.text.answers.pieces import Content

BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]},
}


@pytest.fixture(scope="module")
def endless() -> Iterator[tuple[Served, ScriptedService]]:
    with scripted() as (server, service):
        service.script = [delta(Content("Once")), None]
        yield server, service


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
def test_who_leaves_closes_the_answer(
    endless: tuple[Served, ScriptedService], path: str, stream: bool
) -> None:
    server, service = endless
    body = json.dumps({**BODIES[path], "stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    num_before = len(service.answers)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(head.encode() + body)
        assert service.has_begun.acquire(timeout=30)
        received = b""
        while stream and b"Once" not in received:
            received += connection.recv(4096)
    (answer,) = service.answers[num_before:]
    assert answer.has_closed.wait(30)
