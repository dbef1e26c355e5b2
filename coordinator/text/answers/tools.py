"""The tools of a request as the formats need them: names, and what each parameter may be."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_MAX_LITERAL = 1 << 16  # characters of a Python literal that may be read as one
_MAX_STEPS = 32  # into references and choices
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. parameters: the JSON schema of its arguments, an object."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def properties(self) -> Mapping[str, Any]:
        """The schema of each declared parameter."""
        properties = self.parameters.get("properties")
        return properties if isinstance(properties, Mapping) else {}

    @property
    def required(self) -> frozenset[str]:
        """The names of the parameters that must be there."""
        required = self.parameters.get("required")
        return frozenset(map(str, required)) if isinstance(required, list | tuple) else frozenset()

    @property
    def depth(self) -> int:
        """The number of lists and objects within each other in the schema."""
        return _depth(self.parameters)

    def types(self, parameter: str) -> frozenset[str]:
        """The JSON types that a parameter may have; empty where its schema does not say."""
        return _types(self.properties.get(parameter), self.parameters, set(), 0)

    def schema(self, parameter: str) -> Mapping[str, Any]:
        """The schema of a declared parameter, behind references; empty where there is none."""
        found = self.properties.get(parameter)
        for _ in range(_MAX_STEPS):
            if not isinstance(found, Mapping) or "$ref" not in found:
                break
            found = _referenced(str(found["$ref"]), self.parameters)
        return found if isinstance(found, Mapping) else {}

    def constants(self, parameter: str) -> Sequence[Any] | None:
        """The values that a parameter may have, where its schema names them."""
        schema = self.schema(parameter)
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        return values if isinstance(values, list | tuple) and values else None

    def is_text(self, parameter: str) -> bool:
        """Tells if a parameter can be nothing but a string."""
        return self.types(parameter) == {"string"}


def read_tools(tools: Iterable[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """Reads a request's tools, each with its function in it or flat; those without a name are left out."""
    functions = [tool.get("function", tool) for tool in tools]
    return tuple(
        Tool(
            function["name"],
            parameters if isinstance(parameters := function.get("parameters"), Mapping) else {},
        )
        for function in functions
        if isinstance(function, Mapping) and isinstance(function.get("name"), str)
    )


def written_value(text: str, types: frozenset[str]) -> str:
    """The JSON text of a parameter that a model wrote without quotes.

    It is a string where the schema allows strings and nothing else that it may be, or where it can be
    nothing else; otherwise JSON, or a Python literal, as templates write some.
    """
    stripped = text.strip()
    value = _parsed(stripped)
    if value is _NOTHING or not _allows(types, value):
        return json.dumps(text, ensure_ascii=False)
    try:
        json.loads(stripped)  # as it is, with all its digits
    except ValueError:
        return json.dumps(value, ensure_ascii=False)
    return stripped


_NOTHING = object()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        pass
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]
    if text[:1] not in ("{", "[", "(") or len(text) > _MAX_LITERAL:
        return _NOTHING
    try:
        value = ast.literal_eval(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _NOTHING
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(constant)  # NaN is no JSON


def _allows(types: frozenset[str], value: Any) -> bool:
    """Tells if a value that is no string may stand for a parameter of these types."""
    if "string" not in types:
        return True
    kind = "null" if value is None else _TYPES[type(value)]
    return kind != "string" and (kind in types or (kind == "integer" and "number" in types))


def _depth(value: Any) -> int:
    """The number of lists and objects within each other, found without recursion."""
    found, level = 0, [value]
    while level := [each for each in level if isinstance(each, Mapping | list | tuple) and each]:
        found += 1
        level = [part for each in level for part in (each.values() if isinstance(each, Mapping) else each)]
    return found


def _types(schema: Any, root: Mapping[str, Any], seen: set[str], depth: int) -> frozenset[str]:
    """The types of a schema; empty for unknown ones, and for a reference that is met again."""
    if not isinstance(schema, Mapping) or depth == _MAX_STEPS:
        return frozenset()
    if "$ref" in schema:
        reference = str(schema["$ref"])
        if reference in seen:
            return frozenset()
        seen.add(reference)
        return _types(_referenced(reference, root), root, seen, depth + 1)
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset([declared])
    if isinstance(declared, list | tuple):
        return frozenset(map(str, declared))
    values: Sequence[Any] = schema["enum"] if isinstance(schema.get("enum"), list | tuple) else ()
    values = [schema["const"]] if "const" in schema else values
    if values:
        return frozenset("null" if value is None else _TYPES.get(type(value), "object") for value in values)
    choices = schema.get("anyOf", schema.get("oneOf"))
    if not isinstance(choices, list | tuple):
        return frozenset()
    found = [_types(choice, root, seen, depth + 1) for choice in choices]
    return frozenset().union(*found) if all(found) else frozenset()


def _referenced(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found
