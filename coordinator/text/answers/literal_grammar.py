"""Grammars of values by their JSON schema where a model does not write JSON: Python's literals and Gemma's.

Types, enumerations, constants, required properties and items are enforced; the limits on a string's text or
on a number's size are not, for only JSON has a compiler of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tplaunch.coordinator.text.answers.lark import Lark
from tplaunch.coordinator.text.answers.tools import Tool
from tplaunch.coordinator.text.answers.values import PYTHON, ValueStyle

_GEMMA_QUOTE = '<|"|>'
_INTEGER = r"/-?(0|[1-9][0-9]{0,40})/"
_NUMBER = r"/-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?/"
_PYTHON_STRING = r"""/'([^'\\\x00-\x09\x0b-\x1f]|\\[\\'"nrt])*'|"([^"\\\x00-\x09\x0b-\x1f]|\\[\\'"nrt])*"/"""
_MAX_DEPTH = 12


class LiteralGrammar:
    """Rules for the values of one schema. root: the schema whose definitions it may refer to."""

    def __init__(self, lark: Lark, style: ValueStyle, root: Mapping[str, Any]) -> None:
        self._lark = lark
        self._is_python = style is PYTHON
        self._root = root
        self._references: dict[str, str] = {}
        self._any_value: str | None = None

    def value(self, schema: Any, depth: int = 0) -> str:
        """Returns the rule of a value by its schema."""
        if not isinstance(schema, Mapping) or depth == _MAX_DEPTH:
            return self._any()
        if "$ref" in schema:
            return self._reference(str(schema["$ref"]), depth)
        constants = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(constants, list | tuple) and constants:
            return self._lark.choice(self._constant(value) for value in constants)
        choices = schema.get("anyOf", schema.get("oneOf"))
        if isinstance(choices, list | tuple) and choices:
            return self._lark.choice(self.value(choice, depth + 1) for choice in choices)
        kinds = schema.get("type", "object" if "properties" in schema else None)
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list | tuple) or not kinds:
            return self._any()
        return self._lark.choice(self._kind(str(kind), schema, depth) for kind in kinds)

    def pairs(self, schema: Mapping[str, Any], writes: Sequence[str], depth: int) -> str:
        """The properties in order with a comma between each two, the optional ones there or not.

        The order is the schema's, or the alphabet's, in which Gemma's template writes them. writes: how a key
        may be written, with {key} to fill. Returns an empty text where there are none.
        """
        properties, required = Tool("", schema).properties, Tool("", schema).required
        names = list(properties) if self._is_python else sorted(properties, key=str.lower)
        first, rest = "", ""  # what may follow, without and with a comma before it
        for name in reversed(names):
            value = self.value(properties[name], depth + 1)
            keys = [self._lark.literal(each.replace("{key}", name)) for each in writes]
            pair = self._lark.rule(f"({' | '.join(keys)}) {value}")
            if name in required:
                first, rest = f"{pair} {rest}", f"{self._comma} {pair} {rest}"
            else:
                others = f"{pair} {rest} | {first}" if first else f"({pair} {rest})?"
                first, rest = others, f"({self._comma} {pair})? {rest}"
            first, rest = self._lark.rule(first), self._lark.rule(rest)
        return first

    def _kind(self, kind: str, schema: Mapping[str, Any], depth: int) -> str:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            item = self.value(schema.get("items"), depth + 1)
            return self._lark.rule(f'"[" ({item} ({self._comma} {item})*)? "]"')
        return self._scalar(kind)

    def _object(self, schema: Mapping[str, Any], depth: int) -> str:
        if Tool("", schema).properties:
            writes = ('"{key}": ', "'{key}': ") if self._is_python else ("{key}:",)
            pairs = self.pairs(schema, writes, depth)
            return self._lark.rule(f'"{{" {pairs} "}}"')
        more = schema.get("additionalProperties")
        value = self.value(more, depth + 1) if isinstance(more, Mapping) else self._any()
        key = f'{_PYTHON_STRING} ": "' if self._is_python else r"""/[^\s:{}\[\],"'<>]{1,64}:/"""
        return self._lark.rule(f'"{{" ({key} {value} ({self._comma} {key} {value})*)? "}}"')

    def _scalar(self, kind: str) -> str:
        words = ("True", "False", "None") if self._is_python else ("true", "false", "null")
        if kind == "boolean":
            return f'("{words[0]}" | "{words[1]}")'
        if kind == "null":
            return f'("{words[2]}" | "None")'
        if kind in ("integer", "number"):
            return self._lark.rule(_INTEGER if kind == "integer" else _NUMBER)
        if self._is_python:
            return self._lark.rule(_PYTHON_STRING)
        return self._lark.rule(f"{self._lark.literal(_GEMMA_QUOTE)} {self._lark.text_until(_GEMMA_QUOTE)}")

    def _constant(self, value: Any) -> str:
        if self._is_python:
            return self._lark.literal(repr(value))
        if isinstance(value, str):
            return self._lark.literal(f"{_GEMMA_QUOTE}{value}{_GEMMA_QUOTE}")
        return self._lark.literal(json.dumps(value))

    def _reference(self, reference: str, depth: int) -> str:
        """The rule of a definition; it may hold itself."""
        if reference not in self._references:
            found: Any = self._root
            for step in reference.removeprefix("#/").split("/"):
                found = found.get(step) if isinstance(found, Mapping) else None
            self._references[reference] = rule = self._lark.reserve()
            self._lark.fill(rule, self.value(found, depth + 1))
        return self._references[reference]

    def _any(self) -> str:
        if self._any_value is None:
            self._any_value = rule = self._lark.reserve()
            kinds = [self._kind(kind, {}, 0) for kind in ("object", "array")]
            self._lark.fill(
                rule, " | ".join([*kinds, *map(self._scalar, ("string", "number", "boolean", "null"))])
            )
        return self._any_value

    @property
    def _comma(self) -> str:
        return "/, ?/" if self._is_python else '","'
