"""Follows an answer's text as it arrives and tells content, reasoning and tool calls apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.text.answers.frames import Frames
from tplaunch.coordinator.text.answers.output import Output
from tplaunch.coordinator.text.answers.pieces import Piece
from tplaunch.coordinator.text.answers.reasoning import ReasoningMarkers
from tplaunch.coordinator.text.answers.source import MalformedError, Marks, Reading, Source
from tplaunch.coordinator.text.answers.syntax import CallSyntax, Context
from tplaunch.coordinator.text.answers.tools import Tool


@dataclass(frozen=True)
class Layout:
    """Says what may stand in an answer besides its text.

    silent: markers around content that are no part of it. interrupting: the call markers that end reasoning,
    too, for they are control tokens, which a model that only thinks about calls does not write.
    """

    reasoning: ReasoningMarkers | None = None
    calls: CallSyntax | None = None
    silent: tuple[str, ...] = ()
    frames: Frames | None = None
    interrupting: frozenset[str] = frozenset()


class AnswerReader:
    """Reads one answer. Text may arrive cut anywhere: only what could begin a marker is held back.

    A call begins when its name is known to be a tool's and its arguments are open; until then, all of it is
    kept, and becomes text of the answer if it turns out to be none. A call that goes wrong later, or is cut,
    ends there as incomplete, and what follows is content.
    """

    def __init__(self, layout: Layout, prompt_end: str, tools: Sequence[Tool]) -> None:
        self._layout = layout
        self._calls = layout.calls if tools else None
        self._source = Source()
        reasoning = layout.reasoning
        names = {tool.name: tool for tool in tools}
        in_reasoning = reasoning is not None and reasoning.is_open(prompt_end)
        behind = reasoning is not None and reasoning.is_closed(prompt_end)
        self._output = Output(self._source, names, in_reasoning, behind)
        self._context = Context(self._source, self._output, names)
        self._begins_in_header = layout.frames is not None and prompt_end.rstrip().endswith(
            layout.frames.prompt_end
        )
        self._marks = {kind: Marks(*self._marks_of(kind)) for kind in (False, True)}
        self._reading = self._read()
        next(self._reading, None)
        self._is_finished = False

    @property
    def num_calls(self) -> int:
        """The number of calls begun."""
        return self._output.num_calls

    @property
    def is_reasoning(self) -> bool:
        """Tells whether the text so far ends inside reasoning."""
        return self._output.in_reasoning

    def push(self, text: str) -> list[Piece]:
        """Takes the next part of the text; returns the pieces that it makes certain."""
        assert not self._is_finished
        if text:
            self._source.feed(text)
            next(self._reading, None)
        return self._output.collect()

    def finish(self) -> list[Piece]:
        """Says that the text has ended; returns the last pieces."""
        if not self._is_finished:
            self._is_finished = True
            self._source.end()
            for _ in self._reading:
                raise AssertionError("a reader asks for text behind the end")
        return self._output.collect()

    def _marks_of(self, in_reasoning: bool) -> list[str]:
        layout = self._layout
        marks = list(layout.frames.marks) if layout.frames else []
        begins = self._calls.begins if self._calls else ()
        if in_reasoning:
            marks += [begin for begin in begins if begin in layout.interrupting]
            return [layout.reasoning.end, *marks] if layout.reasoning else marks
        if layout.reasoning and not layout.frames:
            marks += [layout.reasoning.begin, layout.reasoning.end]
        return [*marks, *begins, *layout.silent]

    def _read(self) -> Reading[None]:
        source, output = self._source, self._output
        if self._begins_in_header:
            yield from self._try_header("")
        while True:
            yield from self._try_bare()
            text, mark = yield from source.until(self._marks[output.in_reasoning])
            if text:
                output.text(text)
            if mark is not None:
                yield from self._at_mark(mark)
            elif not text:
                output.finish()
                return

    def _at_mark(self, mark: str) -> Reading[None]:
        reasoning, frames = self._layout.reasoning, self._layout.frames
        if self._calls is not None and mark in self._calls.begins:
            yield from self._try_call(mark)
        elif frames is not None and mark in frames.heads:
            yield from self._try_header(mark)
        elif frames is not None and mark in frames.ends:
            self._output.switch(in_reasoning=False)
        elif reasoning is not None and mark == reasoning.begin:
            self._output.switch(in_reasoning=True)
        elif reasoning is not None and mark == reasoning.end:
            self._at_reasoning_end(mark)

    def _at_reasoning_end(self, mark: str) -> None:
        """An end without a beginning ends nothing; before any text models write it to think of nothing."""
        if self._output.in_reasoning or not self._output.has_content:
            self._output.switch(in_reasoning=False)
        else:
            self._output.text(mark)

    def _try_bare(self) -> Reading[None]:
        """A call without a marker, which only stands where no content stands before it."""
        while self._calls is not None and self._calls.bare:
            output = self._output
            if output.has_content or output.in_reasoning or output.in_call:
                return
            if space := (yield from self._source.space()):
                output.text(space)
            first = yield from self._source.peek()
            if not first or first not in self._calls.bare:
                return
            yield from self._try_call("")

    def _try_call(self, mark: str) -> Reading[None]:
        assert self._calls is not None
        yield from self._attempt(mark, self._calls.read(mark, self._context), needs_call=True)

    def _try_header(self, mark: str) -> Reading[None]:
        assert self._layout.frames is not None
        header = self._layout.frames.read_header(self._context, self._calls is not None)
        yield from self._attempt(mark, header, needs_call=False)

    def _attempt(self, mark: str, reading: Reading[None], needs_call: bool) -> Reading[None]:
        """Reads what a marker announces; gives back as text what of it went to no call."""
        output, num_calls = self._output, self._output.num_calls
        self._source.hold(mark)
        try:
            yield from reading
            is_lost = not needs_call or output.num_calls > num_calls
        except MalformedError:
            is_lost = False
        if output.in_call:
            output.end(complete=False)
        left = self._source.release()
        if not is_lost and not (output.num_calls > num_calls and self._source.exhausted):
            output.text(left)
