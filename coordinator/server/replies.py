"""Sends an answer in the form that a protocol's writer gives it, as named events or in one piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import Response

from tplaunch.coordinator.server.answer import Answer, Delta, Usage
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.sse import EventStream, dumped, event, unless_left

Event = dict[str, Any]  # its type is also its name


class Writer(Protocol):
    """One answer in a protocol's form."""

    def begin(self, usage: Usage) -> list[Event]:
        """Returns the events before the first piece."""

    def push(self, delta: Delta) -> list[Event]:
        """Returns the events of what is new. Raises ApiError where the answer was ended by the server."""

    def finish(self, usage: Usage) -> list[Event]:
        """Returns the events behind the last piece."""

    def fail(self, error: ApiError) -> list[Event]:
        """Returns the events that end an answer which fails."""

    def whole(self, usage: Usage) -> Event:
        """Returns the answer as it is by now, in one piece."""


def as_json(value: Any) -> Response:
    """Returns a response with a value as JSON."""
    return Response(dumped(value), media_type="application/json")


async def reply(
    request: Request,
    answer: Answer,
    writer: Writer,
    *,
    stream: bool,
    done: Callable[[Event], None] = lambda whole: None,
) -> Response:
    """Returns a response with the answer. Raises ApiError where it fails before anything was sent.

    done: gets the whole answer before its client hears that it has ended.
    """
    if stream:
        chunks = _chunks(answer, writer, done)
        return EventStream(chunks, answer.close, lambda error: _named(writer.fail(error)))
    whole = await unless_left(request, answer.close, _whole(answer, writer, done))
    return whole if isinstance(whole, Response) else as_json(whole)


async def _chunks(answer: Answer, writer: Writer, done: Callable[[Event], None]) -> AsyncIterator[bytes]:
    yield _named(writer.begin(answer.usage))
    async for delta in answer.deltas():
        events = writer.push(delta)
        if events:
            yield _named(events)
    done(writer.whole(answer.usage))
    yield _named(writer.finish(answer.usage))


async def _whole(answer: Answer, writer: Writer, done: Callable[[Event], None]) -> Event:
    async for delta in answer.deltas():
        writer.push(delta)
    whole = writer.whole(answer.usage)
    done(whole)
    return whole


def _named(events: Iterable[Event]) -> bytes:
    return b"".join(event(one, one["type"]) for one in events)
