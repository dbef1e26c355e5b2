"""The pieces into which an answer's text is parted, as a reader hands them out while it arrives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Content:
    """Text that the reader of the answer sees."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """Text that the model wrote for itself before it answered."""

    text: str


@dataclass(frozen=True)
class CallBegin:
    """A call of a tool begins: its place among the answer's calls, counted from 0, and its name."""

    index: int
    name: str
    id: str | None = None  # where the model writes one


@dataclass(frozen=True)
class CallArguments:
    """More of a call's arguments; all of a call's texts together are an object in JSON."""

    index: int
    text: str


@dataclass(frozen=True)
class CallEnd:
    """A call ends.

    is_complete is False where the text ended or went wrong within the arguments: they are left as far as they
    came, so that no client takes half a command for a whole one.
    """

    index: int
    is_complete: bool = True


Piece: TypeAlias = Content | Reasoning | CallBegin | CallArguments | CallEnd
