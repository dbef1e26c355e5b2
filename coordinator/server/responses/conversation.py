"""Makes a conversation in the form of chat completions of the items of Responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tplaunch.coordinator.server.conversations import Conversation, Message
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.fields import Fields, refused

TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def conversation_of(instructions: str | None, items: Sequence[Fields]) -> list[Message]:
    """Returns the messages of a body's instructions and items. Raises ApiError."""
    conversation = Conversation()
    if instructions:
        conversation.say("system", instructions)
    for item in items:
        kind = item.text("type") or "message"
        add = _ADD.get(kind)
        if add is None:
            sentence = f"{item.path} is of type {kind!r:.80}, but only {', '.join(_ADD)} are taken"
            raise refused(item.at("type"), sentence)
        add(conversation, item)
    if not conversation.messages:
        raise refused("input", "input must be a text that is not empty, or a list with at least one item")
    return conversation.finished()


def items_of(body: Fields) -> list[Mapping[str, Any]]:
    """Returns a body's input as items."""
    text = body.get("input")
    if isinstance(text, str):
        return [{"type": "message", "role": "user", "content": text}] if text else []
    return [item.value for item in body.objects("input")]


def _add_message(conversation: Conversation, item: Fields) -> None:
    role = item.choice("role", *ROLES)
    if role is None:
        raise item.wrong("role", " or ".join(ROLES))
    conversation.say(ROLES[role], _text(item, "content"))


def _add_reasoning(conversation: Conversation, item: Fields) -> None:
    text = _text(item, "content" if item.get("content") else "summary")
    if text:  # one that is encrypted can't be read
        conversation.think(text)


def _add_call(conversation: Conversation, item: Fields) -> None:
    arguments = item.text("arguments")
    conversation.call(item.needed_text("call_id"), item.needed_text("name"), arguments or "{}")


def _add_custom_call(conversation: Conversation, item: Fields) -> None:
    arguments = json.dumps({"input": item.text("input") or ""}, ensure_ascii=False)
    conversation.call(item.needed_text("call_id"), item.needed_text("name"), arguments)


def _add_output(conversation: Conversation, item: Fields) -> None:
    conversation.answer(item.needed_text("call_id"), _text(item, "output"))


_ADD: dict[str, Callable[[Conversation, Fields], None]] = {
    "message": _add_message,
    "reasoning": _add_reasoning,
    "function_call": _add_call,
    "function_call_output": _add_output,
    "custom_tool_call": _add_custom_call,
    "custom_tool_call_output": _add_output,
}


def _text(holder: Fields, name: str) -> str:
    """Returns a field that is a text, or a list of parts that are texts."""
    value = holder.get(name)
    if isinstance(value, str):
        return value
    if value is None and holder.get("type") != "reasoning":
        raise holder.wrong(name, "a text or a list of parts")
    return "\n".join(_part(part) for part in holder.objects(name))


def _part(part: Fields) -> str:
    kind = part.get("type")
    text = part.text("refusal" if kind == "refusal" else "text")
    if kind in (*TEXTS, "refusal") and text is not None:
        return text
    raise _not_taken(part, kind)


def _not_taken(part: Fields, kind: object) -> ApiError:
    if kind in ("input_image", "input_file", "input_audio"):
        what = f"{part.path} is of type {kind}, but the model reads text only"
    elif kind in TEXTS:
        return part.wrong("text", "a text")
    else:
        what = f"{part.path} is of type {kind!r:.80}, but only input_text and output_text are taken"
    return refused(part.at("type"), what)
