"""Answers that a test has written, as deltas, and a server that gives them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from tests.serving import Served, served
from tplaunch.coordinator.server.answer import Answer, Delta, Usage
from tplaunch.coordinator.server.service import Service
from tplaunch.coordinator.server.wanted import ChatRequest
from tplaunch.coordinator.text.answers.pieces import (
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    Piece,
    Reasoning,
)

Script = Sequence[Delta | Exception | None]

USAGE = Usage(prompt_tokens=20, cached_tokens=8, completion_tokens=7, reasoning_tokens=2)
WEATHER: tuple[Piece, ...] = (
    Reasoning("Hm"),
    Reasoning("."),
    Content("I "),
    Content("look."),
    CallBegin(0, "weather"),
    CallArguments(0, '{"town": '),
    CallArguments(0, '"Ulm"}'),
    CallEnd(0),
    CallBegin(1, "time", "call-7"),
    CallArguments(1, "{}"),
    CallEnd(1),
)


def delta(*pieces: Piece, finish: str | None = None, stop: int | str | None = None) -> Delta:
    return Delta(0, pieces, [0] * len(pieces), [], finish, stop)


def deltas(*pieces: Piece, finish: str = "stop", stop: int | str | None = None) -> list[Delta]:
    """A delta for each piece, and one for the end."""
    return [*map(delta, pieces), delta(finish=finish, stop=stop)]


class ScriptedAnswer(Answer):
    """Gives deltas, or raises the error that stands among them; None is a delta that never comes."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.num_closed = 0
        self.has_closed = threading.Event()

    @property
    def usage(self) -> Usage:
        return USAGE

    async def deltas(self) -> AsyncIterator[Delta]:
        for one in self._script:
            if isinstance(one, Exception):
                raise one
            if one is None:
                await asyncio.Event().wait()
            else:
                yield one

    def close(self) -> None:
        self.num_closed += 1
        self.has_closed.set()


class ScriptedService(Service):
    """Answers each conversation with the script, and keeps what was asked."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.opened, service.name)
        self.script: Script = ()
        self.asked: list[ChatRequest] = []
        self.answers: list[ScriptedAnswer] = []
        self.has_begun = threading.Semaphore(0)

    async def chat(self, request: ChatRequest) -> Answer:
        self.asked.append(request)
        self.answers.append(ScriptedAnswer(self.script))
        self.has_begun.release()
        return self.answers[-1]


@contextlib.contextmanager
def scripted(**options: Any) -> Iterator[tuple[Served, ScriptedService]]:
    """Serves answers that a test writes; options: those of `served`."""
    with served(**options) as server:
        service = server.in_loop(lambda: ScriptedService(server.app.state.service))
        server.app.state.service = service
        yield server, service
        assert all(answer.num_closed == 1 for answer in service.answers)
