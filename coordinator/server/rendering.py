"""Renders conversations as they come over HTTP, where messages are not quite what templates are written for.

Of 51 templates of known models 33 take a call's arguments for an object: with the text that OpenAI's
protocol has, they fail, or write it quoted a second time. 13 fail without a content, or write None. Four
refuse a system message behind others, and six leave it out without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tplaunch.coordinator.server.messages import with_read_arguments
from tplaunch.coordinator.server.wanted import ChatRequest
from tplaunch.coordinator.serving.opened import ChatOptions, Opened
from tplaunch.coordinator.text.chat.template import ChatTemplateError

Message = Mapping[str, Any]

# Holds arguments that are no object, as of a call that was cut; the key is the one that Anthropic's
# documentation proposes for them.
INVALID = "INVALID_JSON"


def rendered(opened: Opened, request: ChatRequest) -> tuple[str, list[int]]:
    """Returns a conversation as text and as token ids.

    request: its messages are checked. Where the template refuses them, it gets the arguments of calls as
    texts; those that are no object in one; and, where the request allows that, a later system message as one
    of the user, also where it would leave that out. Raises RequestError, ChatTemplateError, the first one, or
    TokenizerError.
    """
    options = options_of(request)
    found: list[tuple[str, list[int]]] = []
    refusals: list[ChatTemplateError] = []
    for messages in _readings(request):
        try:
            text, tokens = opened.rendered(messages, options)
        except ChatTemplateError as error:
            refusals.append(error)
            continue
        found.append((text, tokens))
        if not request.may_lower_system or all(late in text for late in _late_texts(messages)):
            return text, tokens
    if not found:
        raise refusals[0]
    return found[0]


def options_of(request: ChatRequest) -> ChatOptions:
    """Returns the options by which the conversation becomes a text."""
    return ChatOptions(
        request.add_generation_prompt,
        request.continue_final_message,
        request.chat_template,
        request.template_kwargs,
        None if request.tool_choice.mode == "none" else [*map(_for_template, request.tools)] or None,
    )


def _for_template(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a tool as models have seen them: whether it is strict is no matter of theirs."""
    function = tool.get("function")
    if not isinstance(function, Mapping) or "strict" not in function:
        return tool
    return {**tool, "function": {key: value for key, value in function.items() if key != "strict"}}


def as_object(arguments: str) -> Mapping[str, Any]:
    """Returns the arguments of a call as an object."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {INVALID: arguments}


def _readings(request: ChatRequest) -> Iterator[Sequence[Message]]:
    given = [_with_content(message) for message in request.messages]
    yield with_read_arguments(given)
    if any(message.get("tool_calls") for message in given):
        yield given
    wrapped = [_with_wrapped_arguments(message) for message in given]
    if wrapped != with_read_arguments(given):
        yield wrapped
    lowered = _lowered(wrapped) if request.may_lower_system else wrapped
    if lowered != wrapped:
        yield lowered


def _late_texts(messages: Sequence[Message]) -> Iterator[str]:
    """Yields the texts of the system messages behind the first other one, as templates may trim them."""
    is_late = False
    for message in messages:
        if message["role"] != "system":
            is_late = True
        elif is_late and isinstance(message.get("content"), str):
            yield message["content"].strip()


def _with_content(message: Message) -> Message:
    return {**message, "content": ""} if message.get("content", "") is None else message


def _with_wrapped_arguments(message: Message) -> Message:
    """Returns a message whose calls have objects for arguments, whatever they are."""
    (read,) = with_read_arguments([message])
    if not read.get("tool_calls"):
        return read
    return {**read, "tool_calls": [_wrapped(call) for call in read["tool_calls"]]}


def _wrapped(call: Message) -> Message:
    arguments = call["function"].get("arguments")
    if not isinstance(arguments, str):
        return call
    return {**call, "function": {**call["function"], "arguments": as_object(arguments)}}


def _lowered(messages: Sequence[Message]) -> list[Message]:
    """Makes system messages behind the first other one those of the user; neighbours become one."""
    lowered: list[dict[str, Any]] = []
    for message in messages:
        is_late = message.get("role") == "system" and any(one["role"] != "system" for one in lowered)
        made = {**message, "role": "user"} if is_late else {**message}
        texts = [one.get("content") for one in (*lowered[-1:], made)]
        is_next = bool(lowered) and made.get("role") == lowered[-1].get("role") == "user"
        if is_next and all(isinstance(text, str) for text in texts):
            lowered[-1]["content"] = "\n\n".join(map(str, texts))
        else:
            lowered.append(made)
    return [*lowered]
