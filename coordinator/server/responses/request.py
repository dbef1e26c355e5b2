"""Makes a chat request of a body of /v1/responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tplaunch.coordinator.server.conversations import function_of
from tplaunch.coordinator.server.fields import Fields, refused, sampling_params, schema_wish
from tplaunch.coordinator.server.responses.conversation import conversation_of, items_of
from tplaunch.coordinator.server.responses.store import Store
from tplaunch.coordinator.server.settings import ClientLimits
from tplaunch.coordinator.server.wanted import ChatRequest, GrammarWish, ToolChoice

REFUSED = {
    "background": "background is not supported: ask with stream, which also tells of a prompt's progress",
    "conversation": "conversation is not supported: go on with previous_response_id",
    "prompt": "prompt is not supported: no templates of prompts are kept here; send their text as input",
    "top_logprobs": "top_logprobs is not supported here: /v1/chat/completions has it",
}
LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True)
class Wanted:
    """A request, and how its answer is sent and kept."""

    request: ChatRequest
    head: Mapping[str, Any]  # the response's fields that are known before its answer
    items: Sequence[Mapping[str, Any]]  # the whole conversation, in its own form
    stream: bool
    keeps: bool

    @property
    def summarizes(self) -> bool:
        """Tells whether the client asks for reasoning as a summary, the form that most clients show."""
        return self.head["reasoning"]["summary"] is not None


def wanted_of(body: object, limits: ClientLimits, id: str, model: str, store: Store) -> Wanted:
    """Returns the request that a body makes. id, model: of the response. Raises ApiError."""
    fields = Fields(body)
    _check(fields)
    fields.check_count("tools", limits.tools)
    before = store.before(fields.text("previous_response_id"))
    items = [*before, *store.resolved(items_of(fields))]
    if len(items) > limits.messages:
        sentence = f"the conversation has {len(items)} items, and at most {limits.messages} are taken"
        raise refused("input", sentence)
    placed = [Fields(item, f"input[{place - len(before)}]") for place, item in enumerate(items)]
    tools = _tools(fields)
    choice, tools = _choice(fields, tools)
    reasoning = _reasoning(fields)
    params = sampling_params(fields, max_tokens=fields.whole("max_output_tokens", 1))
    request = ChatRequest(
        conversation_of(fields.text("instructions"), placed),
        params,
        [_as_function(tool) for tool in tools],
        choice,
        _kwargs(reasoning),
        may_lower_system=True,
        id=id,
        grammar=_grammar(fields),
    )
    keeps = fields.flag("store") is not False
    head = {
        **{"id": id, "object": "response", "model": model, "background": False, "truncation": "disabled"},
        **{name: fields.get(name) for name in ("instructions", "previous_response_id", "max_output_tokens")},
        "parallel_tool_calls": choice.parallel,
        "tool_choice": fields.get("tool_choice") or "auto",
        "tools": [tool.value for tool in tools],
        "temperature": params.temperature,
        "top_p": params.top_p,
        "reasoning": reasoning,
        "text": fields.get("text") or {"format": {"type": "text"}},
        "metadata": fields.get("metadata") or {},
        "store": keeps,
    }
    return Wanted(request, head, items, bool(fields.flag("stream")), keeps)


def _check(body: Fields) -> None:
    """Raises ApiError for what is asked for and can't be had."""
    for name, sentence in REFUSED.items():
        if body.get(name):
            raise refused(name, sentence)
    if LOGPROBS in body.items("include"):
        raise refused("include", f"{LOGPROBS} is not supported here: /v1/chat/completions has logprobs")
    body.choice("truncation", "auto", "disabled")  # nothing is cut: a prompt that does not fit is refused
    metadata = body.object("metadata")
    if metadata is not None and not all(isinstance(value, str) for value in metadata.value.values()):
        raise body.wrong("metadata", "an object whose values are texts")
    if body.get("input") is None and "previous_response_id" not in body:
        raise body.wrong("input", "a text or a list of items")


def _grammar(body: Fields) -> GrammarWish | None:
    """Returns the form that the answer shall have."""
    text = body.object("text")
    form = None if text is None else text.object("format")
    if form is None:
        return None
    kind = form.choice("type", "text", "json_object", "json_schema")
    if kind != "json_schema":
        return GrammarWish("json_object") if kind == "json_object" else None
    return schema_wish(form)


def _tools(body: Fields) -> list[Fields]:
    """Returns the functions; tools of other types, which agents send whatever the model, are left out."""
    tools = [tool for tool in body.objects("tools") if tool.get("type") == "function"]
    for tool in tools:
        _as_function(tool)  # checks it
    return tools


def _as_function(tool: Fields) -> dict[str, Any]:
    schema = tool.object("parameters")
    return function_of(
        tool.needed_text("name"),
        tool.text("description"),
        None if schema is None else schema.value,
        tool.flag("strict"),
    )


def _choice(body: Fields, tools: list[Fields]) -> tuple[ToolChoice, list[Fields]]:
    """Returns how tools are called, and which may be."""
    parallel = body.flag("parallel_tool_calls") is not False
    if not isinstance(body.get("tool_choice"), Mapping):
        mode: Any = body.choice("tool_choice", "auto", "none", "required") or "auto"
        if mode == "required" and not tools:
            raise refused("tool_choice", "tool_choice is required, but no functions are given")
        return ToolChoice(mode, None, parallel), tools
    choice = Fields(body.get("tool_choice"), "tool_choice")
    kind = choice.choice("type", "function", "allowed_tools")
    if kind == "function":
        name = choice.needed_text("name")
        _needed(tools, name, choice.at("name"))
        return ToolChoice("required", name, parallel), tools
    if kind is None:
        raise choice.wrong("type", "function or allowed_tools")
    mode = choice.choice("mode", "auto", "required") or "auto"
    allowed = [tool for tool in choice.objects("tools") if tool.get("type") == "function"]
    names = [tool.needed_text("name") for tool in allowed]
    for tool, name in zip(allowed, names, strict=True):
        _needed(tools, name, tool.at("name"))
    return ToolChoice(mode, None, parallel), [tool for tool in tools if tool.get("name") in names]


def _needed(tools: list[Fields], name: str, path: str) -> None:
    if all(tool.get("name") != name for tool in tools):
        raise refused(path, f"{path} is {name!r:.80}, which is none of the functions that are given")


def _reasoning(body: Fields) -> dict[str, str | None]:
    reasoning = body.object("reasoning") or Fields({}, "reasoning")
    summary = reasoning.choice("summary", "auto", "concise", "detailed", "none")
    return {"effort": reasoning.text("effort"), "summary": None if summary == "none" else summary}


def _kwargs(reasoning: Mapping[str, str | None]) -> dict[str, Any]:
    effort = reasoning["effort"]
    if effort is None:
        return {}
    return {"reasoning_effort": effort, **({"enable_thinking": False} if effort == "none" else {})}
