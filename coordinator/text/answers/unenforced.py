"""Finds what of a tool's schema a call's grammar does not enforce, where a model does not write JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tplaunch.coordinator.text.answers.tools import Tool

_NOTES = frozenset(
    [
        *("title", "description", "default", "examples", "example", "deprecated"),
        *("readOnly", "writeOnly", "$comment", "$schema", "$id"),
    ]
)
_TYPES = frozenset(["type"])
_LITERAL = frozenset(
    [
        *("type", "enum", "const", "anyOf", "oneOf", "properties", "required", "items"),
        *("$ref", "$defs", "definitions", "additionalProperties"),
    ]
)


def in_literals(schema: Any) -> set[str]:
    """The keywords that the grammars of Python's and other literals leave out, at any depth."""
    found: set[str] = set()
    level = [schema]
    while level:
        one = level.pop()
        if not isinstance(one, Mapping):
            continue
        found |= set(map(str, one)) - _NOTES - _LITERAL
        for key in ("properties", "$defs", "definitions"):
            level += one[key].values() if isinstance(one.get(key), Mapping) else []
        for key in ("anyOf", "oneOf"):
            level += one[key] if isinstance(one.get(key), list | tuple) else []
        level += [one.get("items"), one.get("additionalProperties")]
    return found


def in_texts(tool: Tool) -> set[str]:
    """The keywords about parameters that stand as bare text, which may be any text."""
    found: set[str] = set()
    for name in tool.properties:
        schema, types = tool.schema(name), tool.types(name)
        if types and "string" not in types:
            continue
        has_values = types == {"string"} and tool.constants(name) is not None
        allowed = _TYPES | ({"enum", "const"} if has_values else set())
        choices = schema.get("anyOf", schema.get("oneOf"))
        for one in [schema, *(choices if isinstance(choices, list | tuple) else [])]:
            if isinstance(one, Mapping):
                found |= (
                    set(map(str, one)) - _NOTES - allowed - ({"anyOf", "oneOf"} if one is schema else set())
                )
    return found
