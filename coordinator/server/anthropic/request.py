"""Makes a chat request of a body of /v1/messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tplaunch.coordinator.server.anthropic.conversation import conversation_of
from tplaunch.coordinator.server.conversations import function_of
from tplaunch.coordinator.server.fields import Fields, refused, sampling_params, schema_wish
from tplaunch.coordinator.server.settings import ClientLimits
from tplaunch.coordinator.server.wanted import ChatRequest, GrammarWish, ToolChoice
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams

MODES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


@dataclass(frozen=True)
class Wanted:
    """A request, and how its answer is sent."""

    request: ChatRequest
    stream: bool
    stops: tuple[str, ...]


def wanted_of(body: object, limits: ClientLimits, *, counts: bool = False) -> Wanted:
    """Returns the request that a body makes. Raises ApiError.

    counts: the body asks only for the number of tokens, and need not say how many it takes.
    """
    fields = Fields(body)
    fields.text("model")  # any name is taken: programs ask for those that they have built in
    for name, most in (
        ("messages", limits.messages),
        ("tools", limits.tools),
        ("stop_sequences", limits.stops),
    ):
        fields.check_count(name, most)
    tools = _tools(fields)
    messages = conversation_of(fields)
    kwargs, budget = _thinking(fields)
    last = messages[-1]  # the beginning of the answer, where it is the assistant's
    is_open = last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last
    return Wanted(
        ChatRequest(
            messages,
            _params(fields, limits, counts=counts),
            tools,
            _choice(fields, [tool["function"]["name"] for tool in tools]),
            kwargs,
            add_generation_prompt=not is_open,
            continue_final_message=is_open,
            reasoning_budget=budget,
            may_lower_system=True,
            grammar=_grammar(fields),
        ),
        bool(fields.flag("stream")),
        tuple(fields.items("stop_sequences")),
    )


def _params(body: Fields, limits: ClientLimits, *, counts: bool) -> SamplingParams:
    max_tokens = body.whole("max_tokens", 1)
    if max_tokens is None and not counts:
        raise body.wrong("max_tokens", "a whole number of at least 1")
    for place, stop in enumerate(body.items("stop_sequences")):
        if not isinstance(stop, str) or not 0 < len(stop) <= limits.stop_characters:
            path = f"stop_sequences[{place}]"
            raise refused(path, f"{path} must be a text of 1 to {limits.stop_characters} characters")
    return sampling_params(body, max_tokens=max_tokens, stop=body.items("stop_sequences"))


def _grammar(body: Fields) -> GrammarWish | None:
    """Returns the form that the answer shall have. It stood in output_format while it was new."""
    output = body.object("output_config")
    form = (
        body.object("output_format") if output is None or "format" not in output else output.object("format")
    )
    if form is None:
        return None
    if form.choice("type", "json_schema") is None:
        raise form.wrong("type", "json_schema")
    return schema_wish(form)


def _tools(body: Fields) -> list[dict[str, Any]]:
    """Returns the tools that the client runs; those that Anthropic's servers would run are left out."""
    tools = []
    for tool in body.objects("tools"):
        if tool.text("type") in (None, "custom"):
            schema = tool.object("input_schema")
            if schema is None:
                raise tool.wrong("input_schema", "a JSON schema of an object")
            name, described = tool.needed_text("name"), tool.text("description")
            tools.append(function_of(name, described, schema.value, tool.flag("strict")))
    return tools


def _choice(body: Fields, names: list[str]) -> ToolChoice:
    choice = body.object("tool_choice")
    if choice is None:
        return ToolChoice()
    kind = choice.choice("type", *MODES)
    if kind is None:
        raise choice.wrong("type", " or ".join(MODES))
    name = choice.needed_text("name") if kind == "tool" else None
    if name is not None and name not in names:
        raise refused(
            "tool_choice.name", f"tool_choice.name is {name!r:.80}, which is none of the tools that are given"
        )
    if kind == "any" and not names:
        raise refused(
            "tool_choice.type", "tool_choice.type is any, but no tools are given that can be called"
        )
    mode: Any = MODES[kind]
    return ToolChoice(mode, name, not choice.flag("disable_parallel_tool_use"))


def _thinking(body: Fields) -> tuple[Mapping[str, Any], int | None]:
    """Returns what the template is told of reasoning, and the most tokens that it may take."""
    kwargs: dict[str, Any] = {}
    output = body.object("output_config")
    if output is not None and "effort" in output:
        kwargs["reasoning_effort"] = output.text("effort")
    thinking = body.object("thinking")
    if thinking is None:
        return kwargs, None
    kind = thinking.choice("type", "enabled", "disabled", "adaptive", "between_tools")
    if kind is None:
        raise thinking.wrong("type", "enabled or disabled or adaptive")
    kwargs["enable_thinking"] = kind != "disabled"
    if kind == "disabled":
        return kwargs, 0
    budget = thinking.whole("budget_tokens", 1)
    if kind == "enabled" and budget is None:
        raise thinking.wrong("budget_tokens", "a whole number of at least 1")
    return kwargs, budget
