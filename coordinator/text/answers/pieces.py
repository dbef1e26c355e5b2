"""The pieces that an answer consists of, as a reader hands them out while the text arrives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ContentText:
    """Text for the user."""

    text: str


@dataclass(frozen=True)
class ReasoningText:
    """Text that the model wrote to itself."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A tool call begins. index counts the answer's calls from 0; id is what the model wrote, if it did."""

    index: int
    name: str
    id: str | None


@dataclass(frozen=True)
class CallArguments:
    """The next part of a call's arguments; all parts together are the JSON text of an object."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """A tool call ends.

    complete is False where the text ended or went wrong within the arguments: they are left as far as they
    came, so that no client takes half a command for a whole one.
    """

    index: int
    complete: bool


Piece = ContentText | ReasoningText | CallStart | CallArguments | CallEnd
