"""Reads which form a client wants its text to have: response_format, and vLLM's and llama.cpp's fields."""

from __future__ import annotations

import json
from typing import Any

from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.openai.fields import CommonFields
from tplaunch.coordinator.server.wanted import GrammarWish

# vLLM's names, those of its structured_outputs and those that stand alone, with ours.
STRUCTURED = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "lark"}


def grammar_wish(fields: CommonFields) -> GrammarWish | None:
    """Returns the form that is asked for; None for any. Raises ApiError for two, and for one not known."""
    wishes = [*_of_response_format(fields.response_format), *_structured(fields.structured_outputs)]
    alone = (
        ("guided_json", "json_schema", fields.guided_json),
        ("guided_regex", "regex", fields.guided_regex),
        ("guided_choice", "choice", fields.guided_choice),
        ("guided_grammar", "lark", fields.guided_grammar),
        ("grammar", "lark", fields.grammar),
    )
    wishes += [(name, _wish(name, kind, value)) for name, kind, value in alone if value is not None]
    if len(wishes) > 1:
        names = " and ".join(name for name, _ in wishes)
        raise ApiError(400, f"{names} each ask for a form of the text; give one", parameter=wishes[1][0])
    return wishes[0][1] if wishes else None


def _of_response_format(given: dict[str, Any] | None) -> list[tuple[str, GrammarWish]]:
    name = "response_format"
    kind = None if given is None else given.get("type")
    if given is None or kind == "text":
        return []
    if kind == "json_object":
        schema = given.get("schema")  # llama.cpp's and Together's
        return [(name, GrammarWish("json_object") if schema is None else _wish(name, "json_schema", schema))]
    if kind == "json_schema":
        described = given.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else given.get("schema")
        if schema is None:
            raise ApiError(400, "response_format has no json_schema with a schema", parameter=name)
        return [(name, _wish(name, "json_schema", schema))]
    if kind in ("regex", "grammar"):
        value = given.get("value", given.get("pattern", given.get("grammar")))
        return [(name, _wish(name, "regex" if kind == "regex" else "lark", value))]
    raise ApiError(
        400,
        f"response_format has the type {kind!r:.60}; known are text, json_object, json_schema, regex and"
        " grammar",
        parameter=name,
    )


def _structured(given: dict[str, Any] | None) -> list[tuple[str, GrammarWish]]:
    name, found = "structured_outputs", []
    for key, value in (given or {}).items():
        if value is None or value is False:
            continue
        if key == "json_object":
            found.append((name, GrammarWish("json_object")))
        elif key in STRUCTURED:
            found.append((name, _wish(name, STRUCTURED[key], value)))
        elif key == "structural_tag":
            raise ApiError(400, "structured_outputs has structural_tag, which is not known", parameter=name)
    return found


def _wish(name: str, kind: str, value: Any) -> GrammarWish:
    """Raises ApiError where the value is not of the kind's type."""
    if kind == "json_schema":
        return GrammarWish("json_schema", _schema(name, value))
    if kind == "choice":
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise ApiError(400, f"{name} must be a list of texts to choose of", parameter=name)
        return GrammarWish("choice", value)
    if not isinstance(value, str):
        raise ApiError(400, f"{name} has no {kind} as a text", parameter=name)
    return GrammarWish("regex" if kind == "regex" else "lark", value)


def _schema(name: str, value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"{name} is no schema in JSON: {error}", parameter=name) from None
    if not isinstance(value, dict | bool):
        raise ApiError(400, f"{name} must be a JSON schema, as an object", parameter=name)
    return value
