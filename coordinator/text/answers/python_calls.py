"""Calls written as Python writes them: [NAME(key='text', other=3), NAME(...)], as LFM2 and Llama 4 do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.text.answers.lark import Lark, arguments_schema
from tplaunch.coordinator.text.answers.literal_grammar import LiteralGrammar
from tplaunch.coordinator.text.answers.source import MalformedError, Reading
from tplaunch.coordinator.text.answers.syntax import CallSyntax, Context
from tplaunch.coordinator.text.answers.tools import Tool
from tplaunch.coordinator.text.answers.unenforced import in_literals
from tplaunch.coordinator.text.answers.values import PYTHON, read_value

_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class PythonCalls(CallSyntax):
    """Calls between markers or without any, in a list or, between markers, a line each."""

    begin: str = ""
    end: str = ""
    is_list: bool = True

    @property
    def begins(self) -> tuple[str, ...]:
        """The one marker, if there is one."""
        return (self.begin,) if self.begin else ()

    @property
    def bare(self) -> str:
        """The list's bracket, where no marker is needed."""
        return "" if self.begin else "["

    def read(self, mark: str, context: Context) -> Reading[None]:
        """Reads the list, and the end marker."""
        source = context.source
        yield from source.space()
        is_list = yield from source.accept("[")
        while True:
            yield from source.space()
            yield from self._read_call(context)
            yield from source.space()
            if is_list and not (yield from source.accept(",")):
                break
            if not is_list and not _NAME.match((yield from source.peek())):
                break
        if is_list:
            yield from source.expect("]")
        if self.end:
            yield from source.space()
            yield from source.accept(self.end)

    def _read_call(self, context: Context) -> Reading[None]:
        source, output = context.source, context.output
        tool = context.tool((yield from source.token(_NAME, 256)))
        yield from source.expect("(")
        output.start(tool.name)
        output.arguments("{")
        comma = ""
        while True:
            yield from source.space()
            if (yield from source.accept(")")):
                break
            if comma:
                yield from source.expect(",")
                yield from source.space()
            yield from self._read_argument(context, comma)
            comma = ", "
        output.arguments("}")
        output.end()

    def _read_argument(self, context: Context, comma: str) -> Reading[None]:
        source, output = context.source, context.output
        key = yield from source.token(_NAME, 256)
        if not key:
            raise MalformedError
        yield from source.space()
        yield from source.expect("=")
        yield from source.space()
        output.arguments(f'{comma}"{key}": ')
        yield from read_value(source, PYTHON, output.arguments)

    def unenforced(self, tool: Tool) -> set[str]:
        """See CallSyntax."""
        return in_literals(tool.parameters)

    def grammar(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """A list of calls with their arguments in the order of the schema."""
        call = lark.choice(self._call(lark, tool) for tool in tools)
        if not self.is_list:
            calls = lark.repeated(call, "\n", parallel)
            return f'{lark.literal(self.begin)} "\\n"? {calls} "\\n"? {lark.literal(self.end)}'
        calls = f'"[" {lark.repeated(call, ", ", parallel)} "]"'
        return f"{lark.literal(self.begin)} {calls} {lark.literal(self.end)}"

    def _call(self, lark: Lark, tool: Tool) -> str:
        schema = arguments_schema(tool.parameters)
        arguments = LiteralGrammar(lark, PYTHON, schema).pairs(schema, ["{key}="], 0)
        return f'{lark.literal(tool.name + "(")} {arguments} ")"'
