"""Answers that stream, as server-sent events, and answers in one piece; both end when their client leaves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tplaunch.coordinator.server.errors import ApiError

T = TypeVar("T")
logger = logging.getLogger(__name__)
BEAT_SECONDS = 10.0  # without an event; proxies and clients give up on a silent stream after a minute or so
COMMENT = b": working\n\n"
PARTED_DEPTH = 4  # of a body, its choices, one of these, its log probabilities, and lists of them
SENT_BYTES = 1 << 18
PART_LENGTH = 64  # items that are written in one piece
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
LEFT_STATUS = 499  # nginx's for a client that closed the connection; nobody reads it

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def dumped(value: Any) -> bytes:
    """Returns a value as JSON in UTF-8, on one line."""
    return _encoder.encode(value).encode("utf-8", "replace")


def dumped_by_parts(value: Any) -> bytes:
    """Returns the same as `dumped`, in steps between which other threads may run."""
    return "".join(_parts(value, PARTED_DEPTH)).encode("utf-8", "replace")


def _parts(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict) and depth:
        for number, (name, inner) in enumerate(value.items()):
            yield f"{',' if number else '{'}{_encoder.encode(name)}:"
            yield from _parts(inner, depth - 1)
        yield "}" if value else "{}"
    elif isinstance(value, list) and depth and value and isinstance(value[0], dict | list):
        for number, inner in enumerate(value):
            yield "," if number else "["
            yield from _parts(inner, depth - 1)
        yield "]"
    elif isinstance(value, list) and len(value) > PART_LENGTH:
        for start in range(0, len(value), PART_LENGTH):
            yield "," if start else "["
            yield _encoder.encode(value[start : start + PART_LENGTH])[1:-1]
        yield "]"
    else:
        yield _encoder.encode(value)


def event(value: Any, name: str | None = None, dump: Callable[[Any], bytes] = dumped) -> bytes:
    """Returns an event with a value as JSON. name: of the event, where the protocol has names."""
    prefix = b"" if name is None else f"event: {name}\n".encode()
    return b"%bdata: %b\n\n" % (prefix, dump(value))


class LongResponse(Response):
    """Sends JSON in pieces, each when the client has taken the one before: all at once takes long to send."""

    media_type = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, len(self.body), SENT_BYTES):
            piece = bytes(self.body[start : start + SENT_BYTES])
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStream(Response):
    """Sends events as they come, and a comment when none has come for ten seconds.

    chunks: one or several whole events each. close: is called once, when all is sent or the client has left;
    it ends what still runs. error_event: the last event, where making the others raises an ApiError.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        close: Callable[[], None],
        error_event: Callable[[ApiError], bytes],
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._chunks, self._close, self._error_event = chunks, close, error_event
        self._beat_seconds = beat_seconds
        self._has_sent = False  # since the last beat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            work = asyncio.ensure_future(self._send_all(send))
            tasks = [work, asyncio.ensure_future(_left(receive)), asyncio.ensure_future(self._beat(send))]
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except OSError:  # of a client that has left
            pass
        finally:
            self._close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        try:
            async for chunk in self._chunks:
                self._has_sent = True
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except ApiError as error:
            await send({"type": "http.response.body", "body": self._error_event(error), "more_body": True})
        except OSError:
            raise
        except Exception:
            logger.exception("an answer failed")
            told = self._error_event(ApiError(500, "the server failed at this answer; its log has more"))
            await send({"type": "http.response.body", "body": told, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        while True:
            self._has_sent = False
            await asyncio.sleep(self._beat_seconds)
            if not self._has_sent:
                await send({"type": "http.response.body", "body": COMMENT, "more_body": True})


async def unless_left(
    request: Request, close: Callable[[], None], work: Coroutine[Any, Any, T]
) -> T | Response:
    """Returns what the work does, or, once the client has left, a response that nobody reads.

    request: its body was read. close: is called once, when the work is done or the client has left.
    """
    tasks: tuple[asyncio.Task[T], asyncio.Task[None]]
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else Response(status_code=LEFT_STATUS)
    finally:
        close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _left(receive: Receive) -> None:
    """Returns once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
