"""Reads what clients send: JSON within limits, and fields of the types that a model declares."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, FailFast, ValidationError
from starlette.requests import ClientDisconnect

from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.state import limits_of

T = TypeVar("T", bound=BaseModel)
READ_ON = 8  # as far beyond the limit a body is read, and dropped
KEY_VALUES = 2  # values that take as long to read as a name in an object, beside its value
MAX_DIGITS = 512  # of a whole number: the time for reading it grows with their square
BODY_SECONDS = 300.0  # for a body to come


class _FirstError(FailFast):
    """Has the first wrong item of a list be the only one that is told: a million of them take seconds."""

    def __hash__(self) -> int:  # which unions need
        return 0


Texts = Annotated[list[str], _FirstError()]
Tokens = Annotated[list[int], _FirstError()]
SeveralTokens = Annotated[list[Tokens], _FirstError()]
Objects = Annotated[list[dict[str, Any]], _FirstError()]


class Body(BaseModel):
    """Declares a body's fields. A field's description ends the sentence `NAME must be ...`.

    A number is no text and a text no number; fields that nobody declares are left alone, as clients send
    what other servers know.
    """

    model_config = ConfigDict(strict=True, extra="ignore", arbitrary_types_allowed=True)


async def read_body(request: Request, kind: type[T]) -> T:
    """Returns a body's fields. Raises ApiError, which names the first field that is wrong."""
    return parsed(await read_json(request), kind)


async def read_json(request: Request) -> dict[str, Any]:
    """Returns a body that is an object in JSON. Raises ApiError."""
    raw, deepest = await read_bytes(request), limits_of(request).body_depth
    most = limits_of(request).body_values
    if _has_many_values(raw, most):
        raise ApiError(
            413, f"the body has more than {most} values in lists and objects, and more are not taken"
        )
    try:
        body = json.loads(raw.decode(), parse_constant=_no_constant, parse_int=_whole_number)
        if rb"\ud" in raw or rb"\uD" in raw:
            json.dumps(body, ensure_ascii=False).encode()
        is_deep = raw.count(b"[") + raw.count(b"{") > deepest and _depth(body, deepest) > deepest
    except RecursionError:
        is_deep = True
    except UnicodeError:
        raise ApiError(400, "the body is no text in UTF-8, or has half of a character's escape") from None
    except ValueError as error:
        raise ApiError(400, f"the body is no JSON: {error}") from None
    if is_deep:
        raise ApiError(400, f"the body has lists or objects in each other, more than {deepest} deep")
    if not isinstance(body, dict):
        raise ApiError(400, f"the body is no object in JSON, but of type {type(body).__name__}")
    return body


async def read_bytes(request: Request) -> bytes:
    """Returns a body. Raises ApiError where it is longer than the server takes; no more is kept then."""
    limit = limits_of(request).body_bytes
    too_long = ApiError(413, f"the body is longer than {limit} bytes, and more is not taken")
    declared = request.headers.get("content-length", "")
    most = limit if "expect" in request.headers else READ_ON * limit
    if declared.isdecimal() and int(declared[:20]) > most:
        raise too_long

    async def read() -> bytes:
        parts, length = list[bytes](), 0
        async for part in request.stream():
            length += len(part)
            if length > READ_ON * limit:
                break
            if length > limit:  # many clients hear of an error only when they have sent everything
                parts.clear()
            else:
                parts.append(part)
        if length > limit:
            raise too_long
        return b"".join(parts)

    try:
        return await asyncio.wait_for(read(), BODY_SECONDS)
    except ClientDisconnect:
        raise ApiError(400, "the client left before its body was whole") from None
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body was not whole within {BODY_SECONDS:.0f} seconds") from None


def parsed(body: Any, kind: type[T]) -> T:
    """Returns an object's fields. Raises ApiError, which names the first one that is wrong."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)[0]
    name = str(found["loc"][0]) if found["loc"] else "the body"
    if found["type"] == "missing":
        raise ApiError(400, f"{name} is missing, and is needed", parameter=name)
    field = kind.model_fields.get(name)
    wanted = field.description if field is not None and field.description else found["msg"].lower()
    given = body.get(name) if isinstance(body, dict) else body
    raise ApiError(400, f"{name} must be {wanted}, not {_shown(given)}", parameter=name)


def _has_many_values(raw: bytes, most: int) -> bool:
    """Tells whether a body has more values in lists and objects, by the marks between them."""
    if _num_values(raw) < most:
        return False
    bare = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 2 * (most + 1):  # between two texts there is a mark
        return True
    return _num_values(b"".join(bare.split(b'"')[::2])) >= most  # marks in texts are none


def _num_values(raw: bytes) -> int:
    """Returns the number of values, by the time that they take: KEY_VALUES more for a name in an object.

    Lists and objects count themselves: one in another, and so on, has no comma.
    """
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") + KEY_VALUES * raw.count(b":")


def _depth(body: Any, most: int) -> int:
    """Returns how deep lists and objects lie in each other; no more than one beyond `most` are looked at."""
    layer, depth = [body] if isinstance(body, dict | list) else [], 0
    while layer and depth <= most:
        depth += 1
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return depth


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number has {len(digits)} digits, and at most {MAX_DIGITS} are read")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON's")
