"""Deltas of answers that a test has written, as an Answer gives them."""

from __future__ import annotations

from tplaunch.coordinator.server.answer import Delta, Usage
from tplaunch.coordinator.text.answers.pieces import (
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    Piece,
    Reasoning,
)

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
