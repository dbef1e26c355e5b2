"""Finds how a model writes reasoning and tool calls, from its chat template and its control tokens.

Neither a model's name nor an option tells: templates show what a model was trained to write. A template
without tools has no format of calls, and what its model writes is content.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tplaunch.coordinator.text.answers.begun_calls import BegunCalls, begun_calls
from tplaunch.coordinator.text.answers.formats import (
    KNOWN_FORMATS,
    NOTHING_AROUND,
    Around,
    KnownFormat,
    known_format,
)
from tplaunch.coordinator.text.answers.lark import Lark
from tplaunch.coordinator.text.answers.reader import AnswerReader, Layout
from tplaunch.coordinator.text.answers.reasoning import KNOWN, ReasoningMarkers
from tplaunch.coordinator.text.answers.tools import Tool, read_tools

MAX_DEPTH = 60  # of a tool's parameters, lists and objects within each other
NO_TOOLS = "none"  # the name of the format of a model that writes no calls
_SILENT = (  # pairs about content
    *("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    *("<response>", "</response>"),
)
_LETTERS = string.ascii_letters + string.digits


class AnswerFormatError(ValueError):
    """A format that there is not, or parameters that none can enforce; the message says why."""


@dataclass(frozen=True)
class AnswerFormat:
    """How a model writes its answers. name: of the format of its calls, NO_TOOLS where it writes none."""

    name: str
    layout: Layout
    control_tokens: Mapping[str, int] = field(default_factory=dict)
    id_style: str = "call"
    lead: str = ""  # what the model may write between its reasoning and a call
    tail: str = ""  # and behind the last call
    content: Around = NOTHING_AROUND

    @property
    def reasoning(self) -> ReasoningMarkers | None:
        """The markers around reasoning; None where the model writes none."""
        return self.layout.reasoning

    @property
    def writes_calls(self) -> bool:
        """Tells if the model writes tool calls at all."""
        return self.layout.calls is not None

    @property
    def call_begins(self) -> tuple[str, ...]:
        """The markers by which a call begins."""
        frames = self.layout.frames
        begins = self.layout.calls.begins if self.layout.calls else ()
        return begins or (frames.heads if frames and self.layout.calls else ())

    @property
    def calls_may_be_bare(self) -> bool:
        """Tells if a call may begin without a marker, where no content stands before it."""
        return self.layout.calls is not None and bool(self.layout.calls.bare)

    def reader(self, prompt_end: str = "", tools: Iterable[Mapping[str, Any]] | None = None) -> AnswerReader:
        """A reader of one answer.

        prompt_end: the end of the rendered prompt, which tells if the answer begins within reasoning. tools:
        the request's; without any, no text is taken for a call, and a call of another name is text, too.
        """
        return AnswerReader(self.layout, prompt_end, read_tools(tools or ()))

    def call_grammar(
        self, tools: Sequence[Mapping[str, Any]], *, names: Iterable[str] | None = None, parallel: bool = True
    ) -> str | None:
        """A grammar in llguidance's Lark of an answer that must call; it begins where reasoning has ended.

        names: the tools that may be called; None: all. parallel: several calls in one answer. Returns None
        where the model writes no calls, or none of the names is a tool's. Raises AnswerFormatError for
        parameters whose schema is nested too deeply.
        """
        wanted = None if names is None else frozenset(names)
        chosen = self._checked(tool for tool in read_tools(tools) if wanted is None or tool.name in wanted)
        if self.layout.calls is None or not chosen:
            return None
        lark = Lark(self.control_tokens)
        calls, frames = self.layout.calls, self.layout.frames
        if frames is not None:
            return lark.finished(frames.grammar(lark, calls, chosen, parallel))
        lead = rf"/\n{{1,2}}/? {lark.optional(self.lead)}"
        return lark.finished(f"{lead} {calls.grammar(lark, chosen, parallel)} {lark.optional(self.tail)}")

    def begun_calls(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool = True) -> BegunCalls | None:
        """How calls go on that the model begins by itself; None where it writes none.

        Raises AnswerFormatError as call_grammar does.
        """
        chosen = self._checked(read_tools(tools))
        if self.layout.calls is None or not chosen:
            return None
        before = self.layout.frames.prompt_end if self.layout.frames else ""
        return begun_calls(Lark(self.control_tokens), self.layout.calls, chosen, parallel, before)

    def check_strict(self, tools: Iterable[Mapping[str, Any]]) -> None:
        """Raises AnswerFormatError where a tool's schema has what the grammar of calls does not enforce."""
        calls = self.layout.calls
        if calls is None:
            return
        for tool in read_tools(tools):
            words = sorted(calls.unenforced(tool))
            if words:
                raise AnswerFormatError(
                    f"the parameters of {tool.name!r:.80} have {', '.join(words)[:200]}, which can't be"
                    f" enforced in the calls of this model ({self.name}), as strict asks; leave strict out,"
                    " or these"
                )

    @property
    def forbidden_in_reasoning(self) -> frozenset[int]:
        """The control tokens that would end reasoning without its end."""
        heads = self.layout.frames.heads if self.layout.frames else ()
        marks = (*self.layout.interrupting, *heads)
        return frozenset(self.control_tokens[mark] for mark in marks if mark in self.control_tokens)

    def form_grammar(self, calls: str | None = None) -> str | None:
        """A grammar in llguidance's Lark of an answer whose content is a @form; it begins behind reasoning.

        calls: the grammar of calls that may come in place of it. Returns None where the form stands alone.
        """
        lark, content = Lark(self.control_tokens), self.content
        silent = [place for place, mark in enumerate(_SILENT) if mark in self.layout.silent]
        begins, ends = ([_SILENT[place] for place in silent if place % 2 == side] for side in (0, 1))
        parts = [
            lark.optional(content.may_begin) + " " + lark.literal(content.begin),
            *map(lark.optional, begins),
            "@form",
            *map(lark.optional, ends),
            lark.literal(content.end) + " " + lark.optional(content.may_end),
        ]
        whole = " ".join(parts).strip()
        if calls is None:
            return lark.finished(whole) if whole != "@form" else None
        head, begin, rules = calls.partition("start:")
        assert begin, "a grammar of calls begins with its start"
        return f"{head}start: made_calls | {whole}\nmade_calls:{rules}"

    def _checked(self, tools: Iterable[Tool]) -> list[Tool]:
        """The tools, where this model writes calls. Raises AnswerFormatError."""
        chosen = [*tools] if self.layout.calls is not None else []
        for tool in chosen:
            if tool.depth > MAX_DEPTH:
                raise AnswerFormatError(
                    f"the parameters of {tool.name!r:.80} have lists and objects within each other"
                    f" {tool.depth} deep, and at most {MAX_DEPTH} can be enforced"
                )
        return chosen

    def make_id(self, name: str, index: int) -> str:
        """A new id for a call whose model wrote none, in the form that its template takes."""
        if self.id_style == "kimi":
            return f"functions.{name}:{index}"
        size = 9 if self.id_style == "mistral" else 24
        text = "".join(secrets.choice(_LETTERS) for _ in range(size))
        return text if self.id_style == "mistral" else f"call_{text}"


def check_name(name: str) -> None:
    """Raises AnswerFormatError for the name of a format that there is not."""
    _named(name)


def find_format(
    template_source: str | None, control_tokens: Mapping[str, int], *, override: str | None = None
) -> AnswerFormat:
    """The format of a model by its chat template's source and its control tokens' ids by their texts.

    override: a format of calls by name, whatever the template says. Raises AnswerFormatError for a name that
    there is not.
    """
    source = (template_source or "").replace("\\n", "\n")
    tokens = "\n".join(control_tokens)
    known = _named(override) if override is not None else known_format(source)
    if known is None and override is None and "tools" in source:
        known = known_format(tokens)
    known = known or KnownFormat(NO_TOOLS, None, ())
    everything = f"{source}\n{tokens}"
    begins = known.calls.begins if known.calls else ()
    layout = Layout(
        known.reasoning or next((each for each in KNOWN if each.is_in(everything)), None),
        known.calls,
        tuple(text for text in _SILENT if text in everything) + known.silent,
        known.frames,
        frozenset(begins) & frozenset(control_tokens),
    )
    return AnswerFormat(
        known.name, layout, control_tokens, known.id_style, known.lead, known.tail, known.content
    )


def _named(name: str) -> KnownFormat | None:
    if name == NO_TOOLS:
        return None
    found = KNOWN_FORMATS.get(name)
    if found is None:
        names = ", ".join([*KNOWN_FORMATS, NO_TOOLS])
        raise AnswerFormatError(f"there is no tool format {name!r:.80}; there are {names}")
    return found
