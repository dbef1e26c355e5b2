"""Bodies of /v1/messages as chat requests: what they become, and the sentences that refuse them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tplaunch.coordinator.server.anthropic.request import Wanted, wanted_of
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.settings import LIMITS
from tplaunch.coordinator.server.wanted import GrammarWish, ToolChoice

USER = {"role": "user", "content": "Hi"}
TOOL = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}},
}


def wanted(**fields: Any) -> Wanted:
    return wanted_of({"model": "claude-demo", "max_tokens": 9, "messages": [USER], **fields}, LIMITS)


def messages_of(**fields: Any) -> list[Any]:
    return [*wanted(**fields).request.messages]


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        wanted(**fields)
    assert caught.value.status == 400
    return caught.value


def test_a_plain_request() -> None:
    found = wanted(
        temperature=0.5, top_p=0.9, top_k=3, stop_sequences=["END"], stream=True, metadata={"user_id": "x"}
    )
    params = found.request.params
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.5, 0.9, 3, 9)
    assert (params.stops, found.stops, found.stream) == (("END",), ("END",), True)
    assert [*found.request.messages] == [USER]
    assert found.request.add_generation_prompt and not found.request.continue_final_message
    assert (found.request.reasoning_budget, found.request.template_kwargs) == (None, {})


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("Be kind.", "Be kind."),
        ([{"type": "text", "text": "Be"}, {"type": "text", "text": "kind."}], "Be\nkind."),
        (
            [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=81f3"},
                {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
            ],
            "Be kind.",
        ),
    ],
)
def test_a_system_text_comes_first(system: object, text: str) -> None:
    assert messages_of(system=system) == [{"role": "system", "content": text}, USER]


def test_nothing_is_left_of_a_system_text_that_only_bills() -> None:
    assert messages_of(system=[{"type": "text", "text": "x-anthropic-billing-header: a=b"}]) == [USER]


def test_a_round_of_tools() -> None:
    turns = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Weather"}, {"type": "text", "text": "in Ulm?"}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I must look.", "signature": "x"},
                {"type": "redacted_thinking", "data": "zzz"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"town": "Ulm"}},
                {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no clock"}],
                },
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    calls = [
        {
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"town": "Ulm"}'},
        },
        {"id": "toolu_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    assert messages_of(messages=turns) == [
        {"role": "user", "content": "Weather\nin Ulm?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "I must look.",
            "tool_calls": calls,
        },
        {"role": "tool", "tool_call_id": "toolu_1", "name": "weather", "content": "rain"},
        {"role": "tool", "tool_call_id": "toolu_2", "name": "time", "content": "Error: no clock"},
        {"role": "user", "content": "Well?"},
    ]


def test_turns_of_one_speaker_become_one() -> None:
    turns = [USER, USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, USER]
    assert [(message["role"], message["content"]) for message in messages_of(messages=turns)] == [
        ("user", "Hi\nHi"),
        ("assistant", "a\nb"),
        ("user", "Hi"),
    ]


def test_an_answer_that_has_begun_goes_on() -> None:
    request = wanted(messages=[USER, {"role": "assistant", "content": "Once"}]).request
    assert request.continue_final_message and not request.add_generation_prompt


def test_tools_of_servers_are_left_out() -> None:
    tools = [TOOL, {**TOOL, "type": "custom", "name": "b"}, {"type": "web_search_20250305", "name": "search"}]
    function = {
        "name": "weather",
        "description": TOOL["description"],
        "parameters": TOOL["input_schema"],
    }
    assert wanted(tools=tools).request.tools == [
        {"type": "function", "function": function},
        {"type": "function", "function": {**function, "name": "b"}},
    ]


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "weather"}, ToolChoice("required", "weather")),
    ],
)
def test_choices_of_tools(choice: object, meant: ToolChoice) -> None:
    assert wanted(tools=[TOOL], tool_choice=choice).request.tool_choice == meant


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_forms_of_texts(field: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    found = wanted(**{field: {"format": form} if field == "output_config" else form})
    assert found.request.grammar == GrammarWish("json_schema", {"type": "object"})


@pytest.mark.parametrize(
    ("fields", "kwargs", "budget"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"enable_thinking": True}, 1024),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}, 0),
        ({"thinking": {"type": "adaptive"}}, {"enable_thinking": True}, None),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}, None),
    ],
)
def test_thinking(fields: dict[str, Any], kwargs: dict[str, Any], budget: int | None) -> None:
    request = wanted(**fields).request
    assert (request.template_kwargs, request.reasoning_budget) == (kwargs, budget)


@pytest.mark.parametrize(
    ("fields", "parameter", "words"),
    [
        (
            {"max_tokens": None},
            "max_tokens",
            "a whole number of at least 1: it is missing",
        ),
        ({"max_tokens": 0}, "max_tokens", "at least 1, not 0"),
        ({"max_tokens": True}, "max_tokens", "not True"),
        ({"model": 3}, "model", "model must be a text, not 3"),
        ({"messages": "Hi"}, "messages", "messages must be a list, not 'Hi'"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": ["Hi"]}, "messages[0]", r"messages\[0\] must be an object"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "user or assistant"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        (
            {"messages": [USER, {"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "messages[1].content[0].type",
            r"messages\[1\].content\[0\] is of type image, but the model reads text only",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, None, "search_result"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, None, "a text: it is missing"),
        ({"system": [{"type": "image"}]}, "system[0].type", "text only"),
        ({"temperature": "hot"}, "temperature", "temperature must be a number"),
        ({"stop_sequences": ["a", ""]}, "stop_sequences[1]", "of 1 to 1024 characters"),
        ({"stop_sequences": ["a"] * 65}, "stop_sequences", "65 entries, and at most 64 are taken"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema", "is missing"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name", "is missing"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type", "no tools"),
        ({"tool_choice": {"type": "tool", "name": "b"}}, "tool_choice.name", "none of the tools"),
        ({"tool_choice": "auto"}, "tool_choice", "must be an object, not 'auto'"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens", "is missing"),
        ({"thinking": {"type": "deep"}}, "thinking.type", "enabled or disabled or adaptive"),
        ({"output_config": {"format": {"type": "json"}}}, "output_config.format.type", "json_schema"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema", "is missing"),
        ({"stream": "yes"}, "stream", "true or false"),
    ],
)
def test_a_refusal_names_its_field(fields: dict[str, Any], parameter: str | None, words: str) -> None:
    error = refusal(**fields)
    if parameter is not None:
        assert error.parameter == parameter
    with pytest.raises(ApiError, match=words):
        raise error


def test_counting_needs_no_limit() -> None:
    assert (
        wanted_of({"model": "m", "messages": [USER]}, LIMITS, counts=True).request.params.max_tokens is None
    )


WORDS = st.sampled_from(
    ["text", "thinking", "tool_use", "tool_result", "user", "assistant", "image", "a", ""],
)
NAMES = st.sampled_from(
    [
        *("role", "content", "type", "text", "name", "input", "id", "tool_use_id", "system", "messages"),
        *("tools", "tool_choice", "thinking", "is_error", "input_schema", "max_tokens", "budget_tokens"),
        *("stop_sequences", "temperature", "stream", "output_config", "effort"),
    ]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_no_body_raises_anything_else(body: dict[str, Any]) -> None:
    try:
        wanted_of({"model": "m", "max_tokens": 5, "messages": [USER], **body}, LIMITS)
    except ApiError as error:
        assert error.status == 400 and error.message
