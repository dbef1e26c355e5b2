"""Calls written as a name and then the JSON object of the arguments, set apart by markers.

Kimi K2 <|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>, DeepSeek
<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>, Functionary <function=NAME>{...}</function>,
Mistral [TOOL_CALLS]NAME[ARGS]{...}, Solar, and Gemma 4 <|tool_call>call:NAME{key:<|"|>text<|"|>}<tool_call|>.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.text.answers.json_calls import JsonCalls
from tplaunch.coordinator.text.answers.lark import Lark, arguments_schema
from tplaunch.coordinator.text.answers.literal_grammar import LiteralGrammar
from tplaunch.coordinator.text.answers.source import MalformedError, Marks, Reading
from tplaunch.coordinator.text.answers.syntax import Context, Wrapped
from tplaunch.coordinator.text.answers.tools import Tool
from tplaunch.coordinator.text.answers.unenforced import in_literals
from tplaunch.coordinator.text.answers.values import JSON, ValueStyle, read_value

_KIMI_ID = re.compile(r"(?:functions\.)?([^:]+)(?::\d+)?")


@dataclass(frozen=True)
class NamedCalls(Wrapped):
    """Calls by their names."""

    id_end: str = ""  # behind an id that comes before the name
    name_end: str = ""  # empty: the arguments' bracket ends the name
    style: ValueStyle = JSON
    name_is_id: bool = False  # functions.NAME:0 is both
    between: str = ""
    ends_answer: bool = False  # the section's end is a token that ends the answer, which no grammar asks for

    def read_call(self, context: Context) -> Reading[None]:
        """Reads the name, and the arguments if it is a tool's."""
        source, output = context.source, context.output
        call_id: str | None = None
        if self.id_end:
            call_id, _ = yield from source.name(Marks(self.id_end))
        name = yield from self._read_name(context)
        if self.name_is_id and (found := _KIMI_ID.fullmatch(name)):
            call_id, name = name, found.group(1)
        context.tool(name)
        yield from source.space()
        if (yield from source.peek()) != "{":
            raise MalformedError
        output.start(name, call_id)
        yield from read_value(source, self.style, output.arguments)
        output.end()

    def _read_name(self, context: Context) -> Reading[str]:
        if self.name_end:
            name, _ = yield from context.source.name(Marks(self.name_end))
        else:
            name = yield from context.source.token(re.compile(r"[^{\s<\[]+"), 256)
        return name.strip()

    def without_section(self) -> NamedCalls:
        """See Wrapped."""
        return replace(self, section="", section_end="", ends_answer=False)

    def unenforced(self, tool: Tool) -> set[str]:
        """See CallSyntax."""
        return set() if self.style is JSON else in_literals(tool.parameters)

    def grammar(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """A section, if there is one, of calls by their names."""
        calls = [f"{self._head(lark, tool)} {self._arguments(lark, tool)}" for tool in tools]
        call = lark.rule(f"{lark.literal(self.begin)} ({' | '.join(calls)}) {lark.literal(self.end)}")
        whole = lark.repeated(call, self.between, parallel)
        section_end = lark.literal(self.section_end)
        return (
            f"{lark.literal(self.section)} {whole} {f'({section_end})?' if self.ends_answer else section_end}"
        )

    def _arguments(self, lark: Lark, tool: Tool) -> str:
        schema = arguments_schema(tool.parameters)
        return (
            lark.schema(schema)
            if self.style is JSON
            else LiteralGrammar(lark, self.style, schema).value(schema)
        )

    def _head(self, lark: Lark, tool: Tool) -> str:
        head = lark.literal(tool.name + self.name_end)
        if self.name_is_id:
            number = lark.rule("/[0-9]{1,3}/")
            return f"{lark.literal('functions.' + tool.name + ':')} {number} {lark.literal(self.name_end)}"
        if self.id_end:
            return f"{lark.rule('/[A-Za-z0-9_-]{1,64}/')} {lark.literal(self.id_end)} {head}"
        return head


@dataclass(frozen=True)
class MistralCalls(NamedCalls):
    """[TOOL_CALLS]NAME[ARGS]{...}, also with [CALL_ID]id before [ARGS] or with no more than the bracket.

    Older models write a JSON list behind the same marker, which is read, too.
    """

    def read(self, mark: str, context: Context) -> Reading[None]:
        """Reads one call, or a JSON list of them."""
        yield from context.source.space()
        if (yield from context.source.peek()) in ("[", "{"):
            yield from JsonCalls(self.begin).read(mark, context)
        else:
            yield from super().read(mark, context)

    def _read_name(self, context: Context) -> Reading[str]:
        source = context.source
        name = yield from source.token(re.compile(r"[^{\s\[]+"), 256)
        if (yield from source.accept("[CALL_ID]")):
            yield from source.token(re.compile(r"[^{\[]+"), 256)
        yield from source.accept("[ARGS]")
        return name
