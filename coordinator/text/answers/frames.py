"""Messages with headers, as gpt-oss (harmony) and Muse write them: for thoughts, for the user, for a tool.

harmony: <|start|>assistant<|channel|>analysis<|message|>thoughts<|end|>, then a message of the channel final,
or <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>. Muse: to=self, to=user.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.text.answers.lark import Lark, arguments_schema
from tplaunch.coordinator.text.answers.reasoning import ReasoningMarkers
from tplaunch.coordinator.text.answers.source import MalformedError, Marks, Reading
from tplaunch.coordinator.text.answers.syntax import CallSyntax, Context
from tplaunch.coordinator.text.answers.tools import Tool
from tplaunch.coordinator.text.answers.values import JSON, read_value

_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.-]+)")
_MAX_HEADER = 512  # characters
MESSAGE = "<|message|>"


@dataclass(frozen=True)
class Frames:
    """How messages begin and end. heads: where one may begin within an answer, each up to <|message|>."""

    heads: tuple[str, ...]
    ends: tuple[str, ...]
    reasoning: re.Pattern[str]  # found in the header of reasoning
    call: re.Pattern[str] | None = None  # found in the header of a call with JSON arguments
    has_recipients: bool = False  # a call stands in a message to its tool
    prompt_end: str = "<|start|>assistant"  # behind which the answer begins within a header

    @property
    def marks(self) -> tuple[str, ...]:
        """All markers."""
        return (*self.heads, *self.ends)

    def grammar(self, lark: Lark, calls: CallSyntax, tools: Sequence[Tool], parallel: bool) -> str:
        """Returns the rule of an answer of calls, a message each; the first may begin in the prompt."""
        head = lark.optional(self.prompt_end)
        if not self.has_recipients:
            return f"{head} {calls.grammar(lark, tools, parallel)}"
        messages = [
            f"{lark.literal(f' to={tool.name}{MESSAGE}')} {calls.grammar(lark, [tool], False)}"
            for tool in tools
        ]
        return f"{head} {lark.repeated(lark.choice(messages), self.ends[0] + self.prompt_end, parallel)}"

    def read_header(self, context: Context, has_tools: bool) -> Reading[None]:
        """Reads a header and turns to what it announces; reads a call whole. Raises MalformedError."""
        source, output = context.source, context.output
        header, _ = yield from source.name(Marks(MESSAGE), _MAX_HEADER)
        if self.call is not None and self.call.search(header) and has_tools:
            recipient = _RECIPIENT.search(header)
            tool = context.tool(recipient.group(1) if recipient else "")
            yield from source.space()
            if (yield from source.peek()) != "{":
                raise MalformedError
            output.start(tool.name)
            yield from read_value(source, JSON, output.arguments)
            output.end()
        else:
            output.switch(in_reasoning=bool(self.reasoning.search(header)))
            source.hold()


HARMONY = Frames(
    heads=("<|start|>", "<|channel|>"),
    ends=("<|end|>", "<|call|>", "<|return|>"),
    reasoning=re.compile(r"analysis(?!.* to=functions\.)"),
    call=re.compile(r"\bto=functions\."),
)
MUSE = Frames(
    heads=("<|start|>",),
    ends=("<|eom|>", "<|eot|>"),
    reasoning=re.compile(r"\bto=self\b"),
    has_recipients=True,
)
HARMONY_REASONING = ReasoningMarkers("<|channel|>analysis<|message|>", "<|end|>")
MUSE_REASONING = ReasoningMarkers(" to=self<|message|>", "<|eom|>")


@dataclass(frozen=True)
class HarmonyCalls(CallSyntax):
    """Calls by harmony's headers; Frames reads them, this writes their grammar."""

    @property
    def begins(self) -> tuple[str, ...]:
        """None of its own: a header tells only when it is read."""
        return ()

    def named(self, lark: Lark, tools: Sequence[Tool]) -> str:
        """A call from its recipient on, to=functions.NAME; the channel may come before it or behind."""
        words = lark.rule("/[ a-z]{1,40}/")
        first = lark.rule("/ [ a-z]{0,40}/")  # letters would go on with the name
        mark = lark.choice(map(lark.literal, ("<|constrain|>", "<|channel|>")))
        heads = f"({first})? ({mark} ({words})?)* {lark.literal(MESSAGE)}"
        calls = [
            f"{lark.literal(f'to=functions.{tool.name}')} {heads} "
            f"{lark.schema(arguments_schema(tool.parameters))}"
            for tool in tools
        ]
        return lark.choice(calls)

    def grammar(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """One message to a function: behind a call harmony's models end their answer."""
        calls = [
            f"{lark.literal(f'to=functions.{tool.name} ')} {lark.literal('<|constrain|>json<|message|>')} "
            f"{lark.schema(arguments_schema(tool.parameters))}"
            for tool in tools
        ]
        return f"{lark.literal('<|channel|>commentary ')} {lark.choice(calls)} ({lark.literal('<|call|>')})?"
