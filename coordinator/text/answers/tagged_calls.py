"""Calls written as tags, a tag for each parameter, whose values stand there without quotes.

Qwen3-Coder's <function=NAME><parameter=KEY>, GLM's <tool_call>NAME<arg_key>KEY</arg_key><arg_value>, MiniMax,
DeepSeek V4, Kimi K3, MiniCPM 5 and others. A value's type follows from what the tag says of it or from the
tool's schema: a declared string stays a string though it looks like a number, and goes out as it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.text.answers.lark import Lark
from tplaunch.coordinator.text.answers.literal_grammar import LiteralGrammar
from tplaunch.coordinator.text.answers.source import MalformedError, Marks, Reading
from tplaunch.coordinator.text.answers.syntax import Context, Wrapped
from tplaunch.coordinator.text.answers.tools import Tool, written_value
from tplaunch.coordinator.text.answers.unenforced import in_literals, in_texts
from tplaunch.coordinator.text.answers.values import LENIENT, PYTHON, Write, escaped, read_value

_MAX_NAME = 256  # characters
_STRING = frozenset(["string"])
_BOOLEAN = frozenset(["boolean"])
_CDATA, _CDATA_END = "<![CDATA[", "]]>"


@dataclass(frozen=True)
class TaggedCalls(Wrapped):
    """Calls by tags.

    types: the ends of a parameter's tag where they say its type; none: the schema says it. The written_*
    texts are the same markers with the line ends that the model writes about them.
    """

    name_ends: tuple[str, ...] = (">",)  # one of them ends the name
    header_end: str = ""  # behind what else the call's tag says
    key: str = ""
    key_end: str = ""
    types: tuple[tuple[str, str], ...] = ()
    value: str = ""  # a tag of its own before the value
    value_end: str = ""
    has_lines: bool = False  # a line end after the value's tag and before its end belongs to the markup
    has_cdata: bool = False
    has_python_values: bool = False
    written_begin: str = ""  # with {name}
    written_key: str = ""  # with {key} and {type}
    written_value_end: str = ""
    written_end: str = ""
    written_section: str = ""
    written_section_end: str = ""
    between: str = ""

    def read_call(self, context: Context) -> Reading[None]:
        """Reads the name and the parameters."""
        source, output = context.source, context.output
        tool = context.tool((yield from self._read_name(context)))
        yield from source.space()
        if not (yield from self._begins_parameter_or_ends(context)):
            raise MalformedError
        output.start(tool.name)
        output.arguments("{")
        comma = ""
        while (yield from source.accept(self.key)):
            if source.exhausted:
                raise MalformedError
            yield from self._read_parameter(context, tool, comma)
            comma = ", "
            yield from source.space()
        if not (yield from source.accept(self.end)):
            raise MalformedError
        output.arguments("}")
        output.end()

    def close_call(self, context: Context) -> Reading[None]:
        """Nothing is left: the end marker ends the parameters."""
        yield from ()

    def _read_name(self, context: Context) -> Reading[str]:
        """The name ends with a marker, or before the first parameter's or the call's end marker."""
        source = context.source
        yield from source.space()
        parts: list[str] = []
        while True:
            following = yield from source.peek(max(map(len, (self.key, self.end))))
            if not following or sum(map(len, parts)) > _MAX_NAME:
                raise MalformedError
            if following.startswith((self.key, self.end)):
                break
            parts.append(source.take(1))
            ending = next((end for end in self.name_ends if "".join(parts).endswith(end)), None)
            if ending:
                if self.header_end:
                    yield from source.name(Marks(self.header_end))
                return "".join(parts)[: -len(ending)].strip()
        return "".join(parts).strip()

    def _begins_parameter_or_ends(self, context: Context) -> Reading[bool]:
        for mark in (self.key, self.end):
            if (yield from context.source.peek(len(mark))).startswith(mark):
                return True
        return False

    def _read_parameter(self, context: Context, tool: Tool, comma: str) -> Reading[None]:
        source, output = context.source, context.output
        ends = [self.key_end] if not self.types else [end for end, _ in self.types]
        key, end = yield from source.name(Marks(*ends))
        key = key.strip()
        if self.value:
            yield from source.space()
            yield from source.expect(self.value)
        output.arguments(f'{comma}"{escaped(key)}": ')
        types = tool.types(key) if not self.types else frozenset([dict(self.types)[end]])
        if self.has_cdata and (yield from source.accept(_CDATA)):
            yield from self._read_text(context, Marks(_CDATA_END))
            yield from source.space()
            yield from source.expect(self.value_end)
        elif types == _STRING:
            yield from self._read_text(context, Marks(self.value_end))
        elif "string" not in types and types and (yield from self._begins_structure(context)):
            yield from read_value(source, LENIENT, output.arguments)
            yield from source.space()
            yield from source.expect(self.value_end)
        else:
            output.arguments(written_value((yield from self._read_whole(context)), types))

    def _begins_structure(self, context: Context) -> Reading[bool]:
        """Tells if an object or a list comes: its strings may hold what looks like the value's end."""
        yield from context.source.space()
        return (yield from context.source.peek()) in ("{", "[")

    def _read_text(self, context: Context, marks: Marks) -> Reading[None]:
        context.output.arguments('"')
        yield from self._read_value(context, marks, lambda text: context.output.arguments(escaped(text)))
        context.output.arguments('"')

    def _read_whole(self, context: Context) -> Reading[str]:
        parts: list[str] = []
        yield from self._read_value(context, Marks(self.value_end), parts.append)
        return "".join(parts)

    def _read_value(self, context: Context, marks: Marks, write: Write) -> Reading[None]:
        source = context.source
        line_end = ""
        if self.has_lines:
            yield from source.accept("\n")
        while True:
            text, mark = yield from source.until(marks)
            text = line_end + text
            line_end = "\n" if self.has_lines and text.endswith("\n") else ""
            if text := text.removesuffix(line_end):
                write(text)
            if mark:
                return
            if source.exhausted:
                raise MalformedError

    def without_section(self) -> TaggedCalls:
        """See Wrapped."""
        return replace(
            self,
            section="",
            section_end="",
            written_section="",
            written_section_end="",
            written_begin=self.written_begin[self.written_begin.index(self.begin) :],
            written_end=self.written_end.partition(self.end)[0] + self.end,
        )

    def unenforced(self, tool: Tool) -> set[str]:
        """See CallSyntax."""
        return in_texts(tool) | (in_literals(tool.parameters) if self.has_python_values else set())

    def grammar(self, lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
        """A section, if there is one, of calls with their parameters in the order of the schema."""
        call = lark.choice(self._call(lark, tool) for tool in tools)
        if not self.written_section:
            return lark.repeated(call, self.between, parallel)
        calls = lark.repeated(call, self.between, parallel)
        return f"{lark.literal(self.written_section)} {calls} {lark.literal(self.written_section_end)}"

    def _call(self, lark: Lark, tool: Tool) -> str:
        parts = [lark.literal(self.written_begin.replace("{name}", tool.name))]
        if "{index}" in self.written_begin:
            before, _, behind = self.written_begin.replace("{name}", tool.name).partition("{index}")
            parts = [lark.literal(before), lark.rule("/[0-9]{1,3}/"), lark.literal(behind)]
        for name in tool.properties:
            parameter = self._parameter(lark, tool, name)
            parts.append(parameter if name in tool.required else f"{parameter}?")
        return " ".join([*parts, lark.literal(self.written_end)])

    def _parameter(self, lark: Lark, tool: Tool, name: str) -> str:
        schema, types = tool.properties[name], tool.types(name)
        is_text = not types or "string" in types
        kind = "string" if is_text else "number" if "integer" in types else min(types)
        key_end = (
            next((end for end, each in self.types if each == kind), self.types[-1][0]) if self.types else ""
        )
        opened = lark.literal(self.written_key.replace("{key}", name).replace("{type}", key_end))
        constants = tool.constants(name)
        if types == _STRING and constants is not None:
            value = lark.either(constants)
        elif is_text:
            return lark.rule(f"{opened} {lark.text_until(self.written_value_end)}")
        elif types == _BOOLEAN:
            value = '("true" | "false" | "True" | "False")'  # many templates write Python's
        elif self.has_python_values:
            value = LiteralGrammar(lark, PYTHON, tool.parameters).value(schema)
        else:
            value = lark.schema(schema, tool.parameters)
        return lark.rule(f"{opened} {value} {lark.literal(self.written_value_end)}")
