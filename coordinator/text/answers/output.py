"""Collects an answer's pieces: text without the blank lines around reasoning and calls, and tool calls."""

from __future__ import annotations

from collections.abc import Collection

from tplaunch.coordinator.text.answers.pieces import (
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    Piece,
    Reasoning,
)
from tplaunch.coordinator.text.answers.source import MalformedError, Source

MAX_CALLS = 1000  # of one answer


class Output:
    """Collects the pieces that a reader makes of the text.

    White space at the beginning of reasoning, behind it and around calls is left out; within a text it comes
    out when it is known that more text follows.
    """

    def __init__(
        self, source: Source, names: Collection[str], in_reasoning: bool, behind_marker: bool
    ) -> None:
        self._source = source
        self._names = names
        self._pieces: list[Piece] = []
        self._kind: type[Piece] | None = None  # of the parts, which become one piece
        self._parts: list[str] = []
        self._space: list[str] = []
        self._drops_space = in_reasoning or behind_marker
        self.num_calls = 0
        self.in_reasoning = in_reasoning
        self.in_call = False
        self.has_content = False  # since the answer's beginning or its last call

    def collect(self) -> list[Piece]:
        """Returns the pieces since the last time."""
        self._join()
        pieces, self._pieces = self._pieces, []
        return pieces

    def switch(self, in_reasoning: bool) -> None:
        """Goes on with reasoning or with content, behind a marker."""
        self.in_reasoning = in_reasoning
        self._space, self._drops_space = [], True

    def text(self, text: str) -> None:
        """Adds text of the present kind."""
        if self._drops_space:
            text = text.lstrip()
        solid = text.rstrip()
        if solid:
            self._flush_space()
            self._add(Reasoning if self.in_reasoning else Content, solid)
            self._drops_space = False
            self.has_content = self.has_content or not self.in_reasoning
        if len(solid) < len(text):
            self._space.append(text[len(solid) :])

    def finish(self) -> None:
        """Adds the white space that content ends with."""
        if not self.in_reasoning:
            self._flush_space()

    def start(self, name: str, call_id: str | None = None) -> None:
        """Begins a call. Raises MalformedError for a name that is no tool's: such a call is just text."""
        if name not in self._names or self.num_calls == MAX_CALLS:
            raise MalformedError
        self.switch(in_reasoning=False)
        self._append(CallBegin(self.num_calls, name, call_id))
        self.num_calls += 1
        self.in_call, self.has_content = True, False
        self._source.hold()

    def arguments(self, text: str) -> None:
        """Adds to the arguments of the call that was begun."""
        self._source.hold()
        self._add(CallArguments, text)

    def end(self, complete: bool = True) -> None:
        """Ends the call."""
        self._append(CallEnd(self.num_calls - 1, complete))
        self.in_call = False
        if complete:
            self._source.hold()

    def _flush_space(self) -> None:
        if self._space:
            self._add(Reasoning if self.in_reasoning else Content, "".join(self._space))
            self._space = []

    def _append(self, piece: Piece) -> None:
        self._join()
        self._pieces.append(piece)

    def _add(self, kind: type[Piece], text: str) -> None:
        if kind is not self._kind:
            self._join()
            self._kind = kind
        self._parts.append(text)

    def _join(self) -> None:
        text, self._parts = "".join(self._parts), []
        if not text:
            return
        if self._kind is CallArguments:
            self._pieces.append(CallArguments(self.num_calls - 1, text))
        else:
            self._pieces.append(Reasoning(text) if self._kind is Reasoning else Content(text))
