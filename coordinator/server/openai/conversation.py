"""Makes a ChatRequest of the fields of a chat completion."""

from __future__ import annotations

from typing import Any

from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.openai.fields import ChatFields
from tplaunch.coordinator.server.openai.form import grammar_wish
from tplaunch.coordinator.server.openai.parameters import checked_top, sampling_params
from tplaunch.coordinator.server.settings import ClientLimits
from tplaunch.coordinator.server.wanted import ChatRequest, ToolChoice
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams

MODES = ("auto", "none", "required")


def chat_request(fields: ChatFields, limits: ClientLimits) -> ChatRequest:
    """Returns the conversation that a body asks to answer. Raises ApiError."""
    tools = _tools(fields)
    _check_count("messages", len(fields.messages), limits.messages)
    _check_count("tools", len(tools), limits.tools)
    if fields.audio is not None or any(kind != "text" for kind in fields.modalities or ()):
        raise ApiError(
            400, "modalities asks for more than text, which is all there is", parameter="modalities"
        )
    return ChatRequest(
        fields.messages,
        _params(fields, limits),
        tools,
        _tool_choice(fields, tools),
        _template_kwargs(fields),
        fields.chat_template,
        fields.add_generation_prompt is not False and not fields.continue_final_message,
        bool(fields.continue_final_message),
        fields.reasoning_budget,
        grammar=grammar_wish(fields),
    )


def _check_count(name: str, count: int, most: int) -> None:
    if count > most:
        raise ApiError(400, f"{name} has {count} entries, and at most {most} are taken", parameter=name)


def _params(fields: ChatFields, limits: ClientLimits) -> SamplingParams:
    wanted = fields.max_tokens if fields.max_completion_tokens is None else fields.max_completion_tokens
    others: dict[str, Any] = {"max_tokens": wanted}
    if fields.top_logprobs is not None and not fields.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", parameter="top_logprobs")
    if fields.logprobs:
        others["logprobs"] = checked_top("top_logprobs", fields.top_logprobs or 0, limits)
    return sampling_params(fields, limits, **others)


def _template_kwargs(fields: ChatFields) -> dict[str, Any]:
    """Returns what else the template may ask for; chat_template_kwargs come before named fields."""
    found: dict[str, Any] = {}
    if fields.reasoning_effort is not None:
        found["reasoning_effort"] = fields.reasoning_effort
        if fields.reasoning_effort == "none":
            found["enable_thinking"] = False
    if fields.documents is not None:
        found["documents"] = fields.documents
    return {**found, **(fields.chat_template_kwargs or {})}


def _tools(fields: ChatFields) -> list[dict[str, Any]]:
    """The tools, each with a name. Raises ApiError."""
    tools = list(fields.tools or [])
    tools += [{"type": "function", "function": function} for function in fields.functions or ()]
    for number, tool in enumerate(tools, 1):
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, dict):
            raise ApiError(400, f"tool {number} has no function, and no others are known", parameter="tools")
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise ApiError(400, f"tool {number}'s function has no name", parameter="tools")
    return tools


def _tool_choice(fields: ChatFields, tools: list[dict[str, Any]]) -> ToolChoice:
    """Raises ApiError for a choice that can't be kept."""
    given = fields.tool_choice if fields.tool_choice is not None else fields.function_call
    parallel = fields.parallel_tool_calls is not False
    if given is None or given == "auto":
        return ToolChoice("auto", None, parallel)
    if given == "none":
        return ToolChoice("none", None, parallel)
    if given == "required":
        if not tools:
            raise ApiError(400, "tool_choice is required, but there are no tools", parameter="tool_choice")
        return ToolChoice("required", None, parallel)
    function = given.get("function", given) if isinstance(given, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise ApiError(
            400,
            f"tool_choice must be {', '.join(MODES)} or an object that names a function",
            parameter="tool_choice",
        )
    if name not in [tool["function"]["name"] for tool in tools]:
        raise ApiError(400, f"tool_choice names {name!r:.80}, which is no tool", parameter="tool_choice")
    return ToolChoice("required", name, parallel)
