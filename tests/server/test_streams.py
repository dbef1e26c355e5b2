"""Streams and clients that leave: comments while nothing comes, errors in mid-stream, what is cancelled."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.server.test_ends import Held
from tests.serving import GREEDY, served
from tplaunch.coordinator.server.answer import Answer
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.openai.shared import all_begun, error_event
from tplaunch.coordinator.server.sse import COMMENT, EventStream, event
from tplaunch.coordinator.server.wanted import TextRequest
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams


def sent_by(
    chunks: AsyncIterator[bytes],
    *,
    left: asyncio.Event | None = None,
    beat: float = 3600,
    look: Callable[[bytes], None] = lambda body: None,
) -> Any:
    """Returns all that a stream sends, and how often it closed its answer. look: gets each piece."""
    bodies, closed = [], []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            bodies.append(message["body"])
            look(message["body"])

    async def receive() -> Any:
        await (left or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    stream = EventStream(chunks, lambda: closed.append(True), error_event, beat)
    asyncio.run(asyncio.wait_for(stream({}, receive, send), 30))
    return b"".join(bodies), len(closed)


def test_a_comment_comes_while_nothing_else_does() -> None:
    commented = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield event(1)
        await commented.wait()
        yield event(2)

    def look(body: bytes) -> None:
        if body == COMMENT:
            commented.set()

    body, num_closed = sent_by(chunks(), beat=0.05, look=look)
    assert body.startswith(b"data: 1\n\n" + COMMENT) and body.endswith(b"data: 2\n\n") and num_closed == 1


def test_an_error_in_mid_stream_is_an_event() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield event("text")
        raise ApiError(503, "rank 1 ended", kind="server_error")

    body, num_closed = sent_by(chunks())
    assert b"rank 1 ended" in body and body.endswith(b"data: [DONE]\n\n") and num_closed == 1


def test_a_fault_of_ours_in_mid_stream_is_an_event() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield event("text")
        raise KeyError("secret")

    body, num_closed = sent_by(chunks())
    assert b"server_error" in body and b"secret" not in body and num_closed == 1


def test_who_leaves_closes_the_answer() -> None:
    left = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield event(1)
        left.set()
        await asyncio.Event().wait()

    assert sent_by(chunks(), left=left)[1] == 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(stream: bool) -> None:
    """Neither a stream nor a whole answer is computed for someone who has gone."""
    with served() as server:
        assert server.run is not None and server.run.session is not None
        requests = server.run.session.requests
        has_stepped, may_go_on, is_cancelled = threading.Event(), threading.Event(), threading.Event()
        step, cancel = requests.step, requests.cancel

        def step_once() -> Any:
            events = step()
            has_stepped.set()
            assert may_go_on.wait(30)
            return events

        def note(id: str) -> None:
            is_cancelled.set()
            cancel(id)

        requests.step, requests.cancel = step_once, note  # type: ignore[method-assign]
        body = json.dumps({"prompt": [5] * 3, "max_tokens": 60, "n": 8, **GREEDY, "stream": stream}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + body)
            assert has_stepped.wait(30)
        may_go_on.set()
        assert is_cancelled.wait(30)


def test_who_is_cancelled_while_prompts_begin_leaves_none_running() -> None:
    """As a batch's requests are when the server ends."""
    with served() as server:
        held = Held(server)
        service = server.app.state.service

        async def cancelled() -> None:
            has_begun = asyncio.Event()

            async def begins() -> Answer:
                answer: Answer = await service.text(TextRequest([5], SamplingParams(max_tokens=20)))
                has_begun.set()
                return answer

            async def waits() -> Answer:
                await asyncio.Event().wait()
                raise AssertionError("nothing sets it")

            beginning = asyncio.ensure_future(all_begun([begins(), waits()]))
            await has_begun.wait()
            assert service.num_open == 1
            beginning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await beginning

        asyncio.run_coroutine_threadsafe(cancelled(), server.loop).result(30)
        assert service.num_open == 0
        held.may_go_on.set()
