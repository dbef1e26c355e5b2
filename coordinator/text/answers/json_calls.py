"""Calls written as JSON objects with a name and arguments, between markers or without any.

Hermes and Qwen <tool_call>{"name": ..., "arguments": {...}}</tool_call>, Mistral [TOOL_CALLS][{...}], Llama 3
{"name": ..., "parameters": {...}}, Cohere <|START_ACTION|>[{"tool_name": ...}]<|END_ACTION|>, Apertus
<|tools_prefix|>[{name: {...}}]<|tools_suffix|>, and others. Objects and lists of them are read alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.text.answers.lark import NEWLINE, Lark, arguments_schema
from tplaunch.coordinator.text.answers.source import MalformedError, Reading
from tplaunch.coordinator.text.answers.syntax import CallSyntax, Context
from tplaunch.coordinator.text.answers.tools import Tool
from tplaunch.coordinator.text.answers.values import JSON, read_string, read_value

NAME_KEYS = ("name", "tool_name", "function")
ARGUMENT_KEYS = ("arguments", "parameters", "args")
ID_KEYS = ("id", "tool_call_id", "call_id")
_MAX_HELD = 1 << 16  # characters of arguments that come before the name


@dataclass(frozen=True)
class JsonCalls(CallSyntax):
    """Calls as JSON objects. written: an object as the model writes it, with {name} and {arguments}."""

    begin: str
    end: str = ""
    prelude: str = ""  # between the marker and the JSON text
    written: str = '{"name": {name}, "arguments": {arguments}}'
    id_pattern: str = ""  # a regular expression of the id in {id}
    written_begin: str = ""  # between the marker and the first object, and in written_end behind the last
    written_end: str = ""
    is_list: bool = False
    is_bare: bool = False
    is_keyed: bool = False  # {name: arguments}
    between: str = NEWLINE  # two calls
    is_single: bool = False  # models that write no more than one

    @property
    def begins(self) -> tuple[str, ...]:
        """The one marker, if there is one."""
        return (self.begin,) if self.begin else ()

    @property
    def bare(self) -> str:
        """An object's bracket, where no marker is needed."""
        return "{" if self.is_bare else ""

    def read(self, mark: str, context: Context) -> Reading[None]:
        """Reads an object or a list of them, and the end marker."""
        source = context.source
        yield from source.space()
        if self.prelude:
            yield from source.expect(self.prelude)
            yield from source.space()
        if (yield from source.accept("[")):
            yield from self._read_list(context)
        else:
            yield from self._read_object(context)
        if self.end:
            yield from source.space()
            yield from source.accept(self.end.replace(NEWLINE, ""))
        elif self.is_bare:
            yield from source.space()
            yield from source.accept(";")

    def _read_list(self, context: Context) -> Reading[None]:
        source = context.source
        while True:
            yield from source.space()
            if (yield from source.accept("]")):
                return
            yield from self._read_object(context)
            yield from source.space()
            yield from source.accept(",")

    def _read_object(self, context: Context) -> Reading[None]:
        call = _Call(context)
        source = context.source
        yield from source.expect("{")
        while True:
            yield from source.space()
            if (yield from source.accept("}")):
                break
            key = yield from read_string(source)
            yield from source.space()
            yield from source.expect(":")
            yield from source.space()
            if self.is_keyed:
                call.name = key
            yield from call.read_field("arguments" if self.is_keyed else key)
            yield from source.space()
            yield from source.accept(",")
        call.finish()

    def grammar(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """One choice of objects, one for each tool."""
        call = lark.choice(self._object(lark, tool) for tool in tools)
        parallel = parallel and not self.is_single
        begin = "" if self.is_bare else lark.literal(self.begin + self.written_begin)
        if self.is_list:
            calls = lark.repeated(call, self.between, parallel)
            return f"{begin} {calls} {lark.literal(self.written_end + self.end)}"
        whole = f"{begin} {call} {lark.literal(self.written_end + self.end)}"
        return lark.repeated(lark.rule(whole), self.between, parallel)

    def _object(self, lark: Lark, tool: Tool) -> str:
        written = self.written.replace("{name}", json.dumps(tool.name))
        before, _, behind = written.partition("{arguments}")
        arguments = lark.schema(arguments_schema(tool.parameters))
        parts = [f"{self._with_id(lark, before)} {arguments}", self._with_id(lark, behind)]
        return " ".join(parts)

    def _with_id(self, lark: Lark, text: str) -> str:
        before, placeholder, behind = text.partition("{id}")
        if not placeholder:
            return lark.literal(text)
        return f"{lark.literal(before)} {lark.rule(f'/{self.id_pattern}/')} {lark.literal(behind)}"


class _Call:
    """One object: the call begins when its name is known and its arguments are open."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._id: str | None = None
        self._arguments = ""  # of a call whose name has not come yet
        self._is_done = False
        self.name: str | None = None

    def read_field(self, key: str) -> Reading[None]:
        source, output = self._context.source, self._context.output
        if key in ARGUMENT_KEYS and not self._is_done and not self._arguments:
            if (yield from source.peek()) == "{" and self.name is not None:
                output.start(self.name, self._id)
                yield from read_value(source, JSON, output.arguments)
                self._close()
            else:
                self._arguments = yield from self._early_arguments()
        elif key in NAME_KEYS and self.name is None and (yield from source.peek()) == '"':
            self.name = yield from read_string(source)
            self._context.tool(self.name)
        elif key in ID_KEYS and (yield from source.peek()) == '"':
            self._id = yield from read_string(source)
        else:
            yield from read_value(source, JSON, lambda text: None)
        if self._arguments and self.name is not None:
            self._write_early()

    def finish(self) -> None:
        if self._is_done:
            return
        if self.name is None:
            raise MalformedError
        self._arguments = self._arguments or "{}"
        self._write_early()

    def _early_arguments(self) -> Reading[str]:
        """Arguments without a name yet, or ones that are no object: perhaps an object's text in a string."""
        parts: list[str] = []
        size = 0

        def write(text: str) -> None:
            nonlocal size
            size += len(text)
            if size > _MAX_HELD:
                raise MalformedError
            parts.append(text)

        yield from read_value(self._context.source, JSON, write)
        text = "".join(parts)
        value = json.loads(text)
        if isinstance(value, str):
            text, value = value, _loaded(value)
        if value is not None and not isinstance(value, dict):
            raise MalformedError
        return text if value is not None else "{}"

    def _write_early(self) -> None:
        assert self.name is not None
        self._context.output.start(self.name, self._id)
        self._context.output.arguments(self._arguments)
        self._close()

    def _close(self) -> None:
        self._context.output.end()
        self._is_done = True


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError from None
