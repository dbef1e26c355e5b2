"""Makes of clients' messages what chat templates are written for; refuses what no template here can show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tplaunch.coordinator.server.errors import ApiError

Message = Mapping[str, Any]
ROLES = {"developer": "system"}  # OpenAI's name since its reasoning models; templates know the other
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
MAX_CALLS = 1024  # of a message


def for_templates(messages: Sequence[Message]) -> list[Message]:
    """Returns the messages with roles that templates know, and texts for contents' parts that are texts.

    Raises ApiError for a part of a content that is no text: nothing of a client's is left out.
    """
    return [_for_template(number, message) for number, message in enumerate(messages, 1)]


def _for_template(number: int, message: Message) -> Message:
    changed = dict(message)
    role = message.get("role")
    if isinstance(role, str):
        changed["role"] = ROLES.get(role, role)
    content = message.get("content")
    if isinstance(content, list):
        changed["content"] = [_part(number, part) for part in content]
    calls = message.get("tool_calls")
    if calls is None:
        changed.pop("tool_calls", None)
    else:
        _check_calls(number, calls)
    return changed


def _part(number: int, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise _wrong(f"a part of message {number}'s content is no object with a type")
    if kind not in TEXT_PARTS:
        raise _wrong(
            f"message {number} has content of type {kind!r:.60}; this server takes text only, and leaves"
            " nothing out"
        )
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise _wrong(f"a part of message {number}'s content has no text")
    return {"type": "text", "text": text}


def _check_calls(number: int, calls: Any) -> None:
    if not isinstance(calls, list) or len(calls) > MAX_CALLS:
        raise _wrong(f"message {number}'s tool_calls must be a list of at most {MAX_CALLS} objects")
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _wrong(f"a call among message {number}'s tool_calls has no function with a name")


def with_read_arguments(messages: Sequence[Message]) -> list[Message]:
    """Returns the messages with calls' arguments as objects, which most templates write as JSON themselves.

    Arguments that are no object in JSON stay text.
    """
    return [
        {**message, "tool_calls": [_with_read_arguments(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _with_read_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call["function"].get("arguments")
    try:
        read = json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
    except (ValueError, RecursionError):
        return dict(call)
    if not isinstance(read, dict):
        return dict(call)
    return {**call, "function": {**call["function"], "arguments": read}}


def _wrong(sentence: str) -> ApiError:
    return ApiError(400, sentence, parameter="messages")
