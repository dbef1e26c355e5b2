"""Checks a conversation before a template sees it, and says how its last message is left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tplaunch.coordinator.text.chat.process import ChatTemplateError

Message = Mapping[str, Any]

# Stands behind the text that the model is to continue while a template renders it; no text has these two
# characters of private use. Templates that trim a message take the space behind it away.
_MARK = "\U0010fff0\U0010fff1"


def check_messages(messages: object) -> None:
    """Raises ChatTemplateError for what is no list of messages with a role and content."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ChatTemplateError(f"the messages are {_described(messages)}, not a list of objects")
    if not messages:
        raise ChatTemplateError("the conversation is empty: at least one message is needed")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise ChatTemplateError(f"message {number} is {_described(message)}, not an object with a role")
        if not isinstance(message.get("role"), str):
            raise ChatTemplateError(
                f"message {number}'s role is {_described(message.get('role'))}, not a text such as 'user'"
            )
        _check_content(message, number)


def with_texts(messages: Sequence[Message]) -> list[Message] | None:
    """Joins the parts of contents that are nothing but text, a line each; None where there is no such one.

    For templates that know contents as texts only, as those of most models without images do.
    """
    joined, changed = [], False
    for message in messages:
        parts = message.get("content")
        texts = [part.get("text") for part in parts] if isinstance(parts, list | tuple) else []
        if texts and all(isinstance(text, str) for text in texts):
            message, changed = {**message, "content": "\n".join(map(str, texts))}, True  # noqa: PLW2901
        joined.append(message)
    return joined if changed else None


def _check_content(message: Message, number: int) -> None:
    content = message.get("content")
    if content is None and message["role"] == "assistant":  # it only called tools
        return
    if isinstance(content, list | tuple):
        for part in content:
            if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
                raise ChatTemplateError(f"a part of message {number}'s content is no object with a type")
    elif not isinstance(content, str):
        raise ChatTemplateError(
            f"message {number}'s content is {_described(content)}, not a text or a list of parts"
        )


def check_objects(objects: object, what: str) -> None:
    """Raises ChatTemplateError for tools or documents that are no list of objects; None is none."""
    if objects is None:
        return
    if not isinstance(objects, list | tuple) or not all(isinstance(each, Mapping) for each in objects):
        raise ChatTemplateError(f"the {what} are not a list of objects")


def with_open_end(messages: Sequence[Message]) -> list[Message]:
    """Returns the messages with a mark behind the last one's text. Raises ChatTemplateError without one."""
    last = dict(messages[-1])
    content = last.get("content")
    if isinstance(content, str):
        last["content"] = _marked(content)
        return [*messages[:-1], last]
    parts = [dict(part) for part in content or ()]
    text_part = next((part for part in reversed(parts) if isinstance(part.get("text"), str)), None)
    if text_part is None:
        raise ChatTemplateError("the last message has no text that the model could continue")
    text_part["text"] = _marked(text_part["text"])
    last["content"] = parts
    return [*messages[:-1], last]


def cut_at_open_end(rendered: str) -> str:
    """Returns the rendered text up to the mark. Raises ChatTemplateError where the template dropped it."""
    before, mark, behind = rendered.rpartition(_MARK)
    if not mark:
        raise ChatTemplateError(
            "the chat template does not write the last message's text, so that it can't be continued"
        )
    before = before if behind.startswith(" ") else before.rstrip()
    return before.replace(f"{_MARK} ", "").replace(_MARK, "")  # a template may write a text twice


def _marked(text: str) -> str:
    return f"{text}{_MARK} "


def _described(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
