"""Connections of clients: how many there may be, and how long one may take to say what it wants."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.guard import error_response

HEAD_SECONDS = 30.0
SPARE_FILES = 256  # for the ranks, logs, and whatever the libraries open
NUM_TOLD = 64  # connections beyond the limit that may wait to be told so in the form of their protocol
BACKLOG = 128  # connections that are taken at once, before any of them can be refused
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Connection(H11Protocol):
    """Closes a connection on which no whole head of a request comes in time, and one that is too many.

    Otherwise a client that says nothing on very many connections would leave no files to open, for anything.
    """

    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        # uvicorn's own limit is one less, and its answer in no protocol's form.
        self._most, self.limit_concurrency = self.limit_concurrency, None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()
        num_more = 0 if self._most is None else len(self.connections) - self._most
        if num_more > NUM_TOLD:
            transport.write(FULL)
            transport.close()
        elif num_more > 0:
            self.app = _refuse

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_watch()
        super().connection_lost(exc)

    @property
    def _lacks_head(self) -> bool:
        """Tells whether the next that must come is a head, or the rest of one."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        if not self._lacks_head:
            self._end_watch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._close_late)

    def _end_watch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_late(self) -> None:
        self._deadline = None
        if self._lacks_head:
            self.transport.close()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request on a connection that is one too many."""
    error = ApiError(
        503,
        "the server has as many clients as it takes (--max-connections); try again soon",
        kind="too_many_connections",
    )
    response = error_response(scope["path"], error)
    response.headers["connection"] = "close"
    await response(scope, receive, send)


def make_room(max_connections: int) -> int:
    """Lets this process open enough files for so many connections; returns how many are possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        max_connections
        if soft == resource.RLIM_INFINITY
        else max(1, min(max_connections, soft - SPARE_FILES))
    )
