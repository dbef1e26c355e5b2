"""Describes bodies and errors for the server's own document, /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

ERROR_STATUSES = {
    400: "The request is wrong; the sentence says what to change.",
    401: "A key is needed.",
    403: "This server is not called so, or a page of another site asks.",
    404: "Nothing of that name is here.",
    409: "That is not possible as things are.",
    413: "The body is too long.",
    429: "The queue is full.",
    500: "The request failed.",
    501: "This server does not do that.",
    503: "No model runs, or the server ends.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}
    for status, text in ERROR_STATUSES.items()
}


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """Returns the part of a path's description that says which body it takes."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})
    content = {"application/json": {"schema": _whole(schema, parts)}}
    return {"requestBody": {"required": True, "content": content}}


def _whole(schema: Any, parts: dict[str, Any]) -> Any:
    """Puts parts of a schema where they are referred to."""
    if isinstance(schema, list):
        return [_whole(each, parts) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _whole(parts[schema["$ref"].rpartition("/")[2]], parts)
    return {name: _whole(each, parts) for name, each in schema.items()}
