"""Puts conversations of all protocols into the form that chat templates are written for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]


def with_one_system(messages: Sequence[Message]) -> list[Message]:
    """Joins the system messages at the start to one: many templates take no more than one.

    A later one keeps its place; see ChatRequest.may_lower_system.
    """
    leading = 0
    while leading < len(messages) and messages[leading]["role"] == "system":
        leading += 1
    if leading < 2:
        return [*messages]
    text = "\n\n".join(str(message["content"]) for message in messages[:leading] if message["content"])
    return [{"role": "system", "content": text}, *messages[leading:]]


def call_of(id: str, name: str, arguments: str) -> dict[str, Any]:
    """Returns a call of a tool, as an assistant's message holds it. arguments: an object in JSON."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def function_of(
    name: str,
    description: str | None,
    parameters: Mapping[str, Any] | None,
    strict: bool | None = None,
) -> dict[str, Any]:
    """Returns a tool as templates know it. parameters: a JSON schema. strict: it must be kept."""
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    function["parameters"] = parameters or {"type": "object", "properties": {}}
    if strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def result_of(id: str, name: str | None, content: str) -> dict[str, Any]:
    """Returns a tool's result. name: of the tool that was called, where it is known."""
    named = {} if name is None else {"name": name}
    return {"role": "tool", "tool_call_id": id, **named, "content": content}


class Conversation:
    """Messages as they are added; what one speaker says in several pieces becomes one message."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}  # of tools, by their calls' ids

    def say(self, role: str, text: str) -> None:
        """Adds a text of the system, the user or the assistant."""
        last = self.messages[-1] if self.messages else None
        if role == "system" or last is None or last["role"] != role or "tool_calls" in last:
            self.messages.append({"role": role, "content": text})
        else:
            last["content"] = text if last["content"] is None else f"{last['content']}\n{text}"

    def think(self, text: str) -> None:
        """Adds reasoning of the assistant, which stands before what it says and calls."""
        last = self._assistant(is_new=("content", "tool_calls"))
        known = last.get("reasoning_content")
        last["reasoning_content"] = text if known is None else f"{known}\n{text}"

    def call(self, id: str, name: str, arguments: str) -> None:
        """Adds a call of a tool."""
        self._names[id] = name
        self._assistant().setdefault("tool_calls", []).append(call_of(id, name, arguments))

    def answer(self, id: str, content: str) -> None:
        """Adds what a tool answered to a call."""
        self.messages.append(result_of(id, self._names.get(id), content))

    def finished(self) -> list[Message]:
        """Returns the messages as templates take them."""
        for message in self.messages:
            if message["content"] is None and "tool_calls" not in message:  # it ended while it reasoned
                message["content"] = ""
        return with_one_system(self.messages)

    def _assistant(self, is_new: Sequence[str] = ()) -> dict[str, Any]:
        """Returns the last message where it is the assistant's; another where it has one of these fields."""
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant" or any(last.get(name) for name in is_new):
            last = {"role": "assistant", "content": None}
            self.messages.append(last)
        return last
