"""Calls that a model begins by itself: by what they begin, and how they go on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.text.answers.frames import HarmonyCalls
from tplaunch.coordinator.text.answers.json_calls import JsonCalls
from tplaunch.coordinator.text.answers.lark import Lark
from tplaunch.coordinator.text.answers.python_calls import PythonCalls
from tplaunch.coordinator.text.answers.syntax import CallSyntax, Wrapped
from tplaunch.coordinator.text.answers.tools import Tool

_RECIPIENT = "to=functions."
# Where harmony's models name a function: in the header of a message.
_HARMONY = tuple(
    f"{head} {_RECIPIENT}" for head in ("<|start|>assistant", "<|channel|>commentary", "<|channel|>analysis")
)


@dataclass(frozen=True)
class BegunCalls:
    """A grammar of calls, and the texts within an answer by which it begins."""

    grammar: str  # in llguidance's Lark
    markers: tuple[tuple[str, str], ...]  # each with its end that belongs to the grammar
    bare: str = ""  # characters by which a call begins at the content's start; they belong to the grammar
    before: str = ""  # the prompt's end, where it is the start of a marker


def begun_calls(
    lark: Lark, calls: CallSyntax, tools: Sequence[Tool], parallel: bool, before: str
) -> BegunCalls:
    """The calls of these tools in a syntax. before: where an answer begins within a message's header."""
    if isinstance(calls, HarmonyCalls):
        markers = tuple((marker, _RECIPIENT) for marker in _HARMONY)
        return BegunCalls(lark.finished(calls.named(lark, tools)), markers, before=before)
    if isinstance(calls, Wrapped):  # a section is no matter of a call's form
        calls = calls.without_section()
    grammar = calls.grammar(lark, tools, parallel)
    begins = (calls.begin,) if isinstance(calls, JsonCalls | PythonCalls | Wrapped) else calls.begins
    belongs = not calls.bare
    markers = tuple((begin, begin if belongs else "") for begin in begins if begin)
    return BegunCalls(lark.finished(grammar), markers, calls.bare)
