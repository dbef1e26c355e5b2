"""Calls written as nested tags, as MiniMax M3 does: objects by their keys, lists by <item>.

Each tag stands behind a control token, so that no value can hold one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tplaunch.coordinator.text.answers.lark import Lark
from tplaunch.coordinator.text.answers.source import MalformedError, Marks, Reading
from tplaunch.coordinator.text.answers.syntax import Context, Wrapped
from tplaunch.coordinator.text.answers.tools import Tool, written_value
from tplaunch.coordinator.text.answers.unenforced import in_literals, in_texts
from tplaunch.coordinator.text.answers.values import MAX_DEPTH, escaped

_SPACE = "]<]minimax[>["  # the name space's token
_MARKS = Marks(_SPACE)
_TAG_END = Marks(">")


@dataclass(frozen=True)
class NestedCalls(Wrapped):
    """Calls by nested tags."""

    section: str = _SPACE + "<tool_call>"
    begin: str = _SPACE + '<invoke name="'
    end: str = _SPACE + "</invoke>"
    section_end: str = _SPACE + "</tool_call>"

    def read_call(self, context: Context) -> Reading[None]:
        """Reads the name and the parameters."""
        source, output = context.source, context.output
        name, _ = yield from source.name(Marks('">'))
        tool = context.tool(name)
        yield from source.space()
        if (yield from source.peek(len(_SPACE) + 1)) != _SPACE + "<":
            raise MalformedError
        output.start(tool.name)
        output.arguments("{")
        comma = ""
        while not (yield from self._ends(context)):
            yield from self._read_parameter(context, tool, comma)
            comma = ", "
            yield from source.space()
        output.arguments("}")
        output.end()

    def _ends(self, context: Context) -> Reading[bool]:
        return (yield from context.source.peek(len(self.end))) == self.end

    def _read_parameter(self, context: Context, tool: Tool, comma: str) -> Reading[None]:
        source, output = context.source, context.output
        yield from source.expect(_SPACE + "<")
        key, _ = yield from source.name(_TAG_END)
        output.arguments(f'{comma}"{escaped(key)}": ')
        if tool.is_text(key):
            output.arguments('"')
            while True:
                text, mark = yield from source.until(_MARKS)
                output.arguments(escaped(text))
                if mark:
                    break
                if not text:
                    raise MalformedError
            output.arguments('"')
            yield from source.expect(f"</{key}>")
        else:
            schema = tool.properties.get(key)
            output.arguments((yield from self._read_value(context, key, schema, tool, 1)))

    def _read_value(self, context: Context, key: str, schema: Any, tool: Tool, depth: int) -> Reading[str]:
        """Reads a value up to its end tag; returns it as JSON text."""
        source = context.source
        text = ""
        items: list[tuple[str, str]] = []
        schema = schema if isinstance(schema, Mapping) else {}
        types = Tool("", {**tool.parameters, "properties": {key: schema}}).types(key)
        while True:
            part, mark = yield from source.until(_MARKS)
            text += part if not items else ""
            if not mark:
                if not part or len(text) > 1 << 20:
                    raise MalformedError
                continue
            if (yield from source.accept(f"</{key}>")):
                break
            if depth == MAX_DEPTH:
                raise MalformedError
            yield from source.expect("<")
            name, _ = yield from source.name(_TAG_END)
            below = _below(schema, name)
            items.append((name, (yield from self._read_value(context, name, below, tool, depth + 1))))
        return _joined(text, items, types)

    def unenforced(self, tool: Tool) -> set[str]:
        """See CallSyntax."""
        return in_literals(tool.parameters) | in_texts(tool)

    def grammar(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """A section of calls with their parameters in the order of the schema."""
        calls = []
        for tool in tools:
            inside = _NestedGrammar(lark, tool.parameters).elements(tool.parameters, 0)
            calls.append(
                f'{lark.literal(f"{self.begin}{tool.name}")} "\\">" {inside} {lark.literal(self.end)} "\\n"?'
            )
        whole = lark.repeated(lark.choice(calls), "", parallel)
        return f'{lark.literal(self.section)} "\\n"? {whole} {lark.literal(self.section_end)}'


class _NestedGrammar:
    """The grammar of one tool's arguments. root: the schema whose definitions are referred to."""

    def __init__(self, lark: Lark, root: Mapping[str, Any]) -> None:
        self._lark = lark
        self._root = root

    def elements(self, schema: Mapping[str, Any], depth: int) -> str:
        """An object's properties in the schema's order."""
        tool = Tool("", schema)
        pairs = [
            (self._element(name, each, depth), name in tool.required)
            for name, each in tool.properties.items()
        ]
        return " ".join(pair if is_required else f"{pair}?" for pair, is_required in pairs)

    def _element(self, name: str, schema: Any, depth: int) -> str:
        lark, head = self._lark, self._lark.literal(f"{_SPACE}<{name}>")
        whole = Tool("", {**self._root, "properties": {name: schema}})
        types = whole.types(name)
        if not types or not isinstance(schema, Mapping):
            inside = ""
        elif types == {"object"} and Tool("", schema).properties and depth < MAX_DEPTH:
            inside = self.elements(schema, depth + 1)
        elif types == {"array"} and "$ref" not in schema and depth < MAX_DEPTH:
            inside = f"{self._element('item', schema.get('items'), depth + 1)}*"
        elif types == {"string"} and (constants := whole.constants(name)) is not None:
            inside = lark.either(constants)
        else:  # also objects whose definition may hold itself: JSON is read there, too
            inside = "" if "string" in types else lark.schema(schema, self._root)
        if inside:
            return lark.rule(f"{head} {inside} {lark.literal(f'{_SPACE}</{name}>')}")
        return lark.rule(f"{head} {lark.text_until(_SPACE)} {lark.literal(f'</{name}>')}")


def _below(schema: Mapping[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    return schema.get("items") if found is None and name == "item" else found


def _joined(text: str, items: list[tuple[str, str]], types: frozenset[str]) -> str:
    is_list = "array" in types or (not types and bool(items) and all(name == "item" for name, _ in items))
    if items and is_list:
        return f"[{', '.join(value for _, value in items)}]"
    if items:
        return f"{{{', '.join(f'{json.dumps(name)}: {value}' for name, value in items)}}}"
    if not text.strip() and types & {"array", "object"}:
        return "[]" if "array" in types else "{}"
    return written_value(text, types)
