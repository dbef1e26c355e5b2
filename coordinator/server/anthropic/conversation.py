"""Makes a conversation in OpenAI's form of Anthropic's system text and messages."""

from __future__ import annotations

import json
from typing import Any

from tplaunch.coordinator.server.conversations import Conversation, Message
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.fields import Fields, refused

# Claude Code opens its system text with a block that differs with every call, for Anthropic's accounts. No
# prompt would share its beginning with another, and the prefix cache would find nothing.
CHANGING = "x-anthropic-billing-header:"
ERROR = "Error: "  # stands before what a tool answered, where it failed: tools' messages have no field for it


def conversation_of(body: Fields) -> list[Message]:
    """Returns the messages of a body's system and messages. Raises ApiError."""
    conversation = Conversation()
    system = _system(body)
    if system:
        conversation.say("system", system)
    for message in body.objects("messages"):
        role = message.choice("role", "user", "assistant", "system")
        if role is None:
            raise message.wrong("role", "user or assistant")
        if role == "assistant":
            _add_assistant(conversation, message)
        else:
            _add_other(conversation, message, role)
    if not any(message["role"] != "system" for message in conversation.messages):
        raise refused("messages", "messages must have at least one message of the user that is not empty")
    return conversation.finished()


def _system(body: Fields) -> str:
    if isinstance(body.get("system"), str):
        return str(body.get("system"))
    texts = [_text_of(block) for block in body.objects("system")]
    return "\n".join(text for text in texts if text and not text.lstrip().startswith(CHANGING))


def _add_assistant(conversation: Conversation, message: Fields) -> None:
    for block in _blocks(message):
        kind = block.get("type")
        if kind == "thinking":
            conversation.think(block.text("thinking") or "")
        elif kind == "tool_use":
            arguments = block.object("input")
            written = json.dumps({} if arguments is None else arguments.value, ensure_ascii=False)
            conversation.call(block.needed_text("id"), block.needed_text("name"), written)
        elif kind != "redacted_thinking":  # its text can't be read
            conversation.say("assistant", _text_of(block))


def _add_other(conversation: Conversation, message: Fields, role: str) -> None:
    for block in _blocks(message):
        if block.get("type") == "tool_result":
            conversation.answer(block.needed_text("tool_use_id"), _result(block))
        else:
            conversation.say(role, _text_of(block))


def _result(block: Fields) -> str:
    text = "\n".join(_text_of(part) for part in _blocks(block))
    return f"{ERROR}{text}" if block.flag("is_error") else text


def _blocks(holder: Fields) -> list[Fields]:
    """Returns the blocks of a content, which may also be a text."""
    content: Any = holder.get("content")
    if isinstance(content, str):
        return [Fields({"type": "text", "text": content}, holder.at("content"))]
    if content is None and holder.get("type") != "tool_result":  # a tool may have nothing to say
        raise holder.wrong("content", "a text or a list of blocks")
    return holder.objects("content")


def _text_of(block: Fields) -> str:
    kind = block.get("type")
    if kind == "text":
        text = block.text("text")
        if text is None:
            raise block.wrong("text", "a text")
        return text
    raise _not_taken(block, kind)


def _not_taken(block: Fields, kind: object) -> ApiError:
    path = block.at("type")
    if kind in ("image", "document"):
        return refused(path, f"{block.path} is of type {kind}, but the model reads text only")
    known = "text, thinking, tool_use and tool_result"
    return refused(path, f"{block.path} is of type {kind!r:.80}, but only blocks of type {known} are taken")
