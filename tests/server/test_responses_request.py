"""Bodies of /v1/responses as chat requests: what they become, and the sentences that refuse them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.responses.request import Wanted, wanted_of
from tplaunch.coordinator.server.responses.store import Store
from tplaunch.coordinator.server.settings import LIMITS
from tplaunch.coordinator.server.wanted import GrammarWish, ToolChoice

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
}
SCHEMA_WISH = GrammarWish("json_schema", {"type": "object"})
USER = {"role": "user", "content": "Hi"}
OUTPUT = [
    {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "I must look."}],
        "encrypted_content": None,
    },
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
    },
    {
        "id": "fc_1",
        "type": "function_call",
        "call_id": "c1",
        "name": "weather",
        "arguments": '{"town": "Ulm"}',
    },
    {"id": "fc_2", "type": "function_call", "call_id": "c2", "name": "time", "arguments": ""},
]
ANSWERED = {
    "role": "assistant",
    "content": "I look.",
    "reasoning_content": "I must look.",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}},
        {"id": "c2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ],
}


def wanted(kept: Store | None = None, /, **fields: Any) -> Wanted:
    return wanted_of({"model": "demo", "input": "Hi", **fields}, LIMITS, "resp_2", "demo", kept or Store())


def messages_of(kept: Store | None = None, /, **fields: Any) -> list[Any]:
    return [*wanted(kept, **fields).request.messages]


def kept() -> Store:
    store = Store()
    store.keep({"id": "resp_1", "output": OUTPUT}, [{"type": "message", **USER}])
    return store


def test_a_plain_request() -> None:
    found = wanted(
        instructions="Be kind.",
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=9,
        stream=True,
        metadata={"a": "b"},
        service_tier="auto",
    )
    params = found.request.params
    assert (params.temperature, params.top_p, params.max_tokens) == (0.5, 0.9, 9)
    assert (found.stream, found.keeps, found.summarizes) == (True, True, False)
    assert [*found.request.messages] == [{"role": "system", "content": "Be kind."}, USER]
    told = {key: found.head[key] for key in ("metadata", "max_output_tokens", "temperature", "truncation")}
    assert told == {
        "metadata": {"a": "b"},
        "max_output_tokens": 9,
        "temperature": 0.5,
        "truncation": "disabled",
    }


def test_what_codex_sends() -> None:
    found = wanted(
        instructions="You are an agent.",
        input=[
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<cwd>/</cwd>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            *OUTPUT,
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "noon"}],
            },
        ],
        tools=[
            TOOL,
            {"type": "local_shell"},
            {"type": "custom", "name": "apply_patch"},
            {"type": "web_search"},
        ],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="x",
        text={"verbosity": "low"},
    )
    assert [*found.request.messages] == [
        {"role": "system", "content": "You are an agent.\n\nBe kind."},
        {"role": "user", "content": "<cwd>/</cwd>\nWeather?"},
        ANSWERED,
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "name": "time", "content": "noon"},
    ]
    function = {key: TOOL[key] for key in ("name", "description", "parameters")}
    assert found.request.tools == [{"type": "function", "function": function}]
    assert found.request.tool_choice == ToolChoice(parallel=False)
    assert found.request.template_kwargs == {"reasoning_effort": "medium"}
    assert (found.keeps, found.summarizes, found.head["tools"]) == (False, True, [TOOL])


def test_a_conversation_goes_on_from_a_response() -> None:
    output = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
    store = kept()
    found = wanted(store, previous_response_id="resp_1", input=[output])
    result = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "rain"}
    assert [*found.request.messages] == [USER, ANSWERED, result]
    store.keep({"id": "resp_2", "output": []}, found.items)
    again = wanted(store, previous_response_id="resp_2", instructions="Be kind.", input="And now?")
    assert [message["role"] for message in again.request.messages] == [
        *("system", "user", "assistant", "tool", "user")
    ]


def test_items_are_referred_to() -> None:
    assert messages_of(kept(), input=[{"type": "item_reference", "id": "msg_1"}, USER])[0] == {
        "role": "assistant",
        "content": "I look.",
    }
    with pytest.raises(ApiError, match="no item with the id 'x'") as caught:
        wanted(input=[{"type": "item_reference", "id": "x"}])
    assert caught.value.status == 404


def test_a_later_system_message_keeps_its_place() -> None:
    roles = ["developer", "system", "user", "developer"]
    found = messages_of(input=[{"role": role, "content": role} for role in roles])
    assert found == [
        {"role": "system", "content": "developer\n\nsystem"},
        {"role": "user", "content": "user"},
        {"role": "system", "content": "developer"},
    ]


def test_custom_calls_are_calls_with_an_input() -> None:
    items = [
        USER,
        {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "+é"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
    ]
    assert messages_of(input=items)[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "patch", "arguments": '{"input": "+é"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "name": "patch", "content": "done"},
    ]


def test_reasoning_that_is_encrypted_is_left_out() -> None:
    items = [USER, {"type": "reasoning", "summary": [], "encrypted_content": "zzz"}]
    assert messages_of(input=items) == [USER]


@pytest.mark.parametrize(
    ("choice", "meant", "names"),
    [
        (None, ToolChoice(), ["weather", "b"]),
        ("none", ToolChoice("none"), ["weather", "b"]),
        ("required", ToolChoice("required"), ["weather", "b"]),
        ({"type": "function", "name": "b"}, ToolChoice("required", "b"), ["weather", "b"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "b"}]},
            ToolChoice("required"),
            ["b"],
        ),
    ],
)
def test_choices_of_tools(choice: object, meant: ToolChoice, names: list[str]) -> None:
    request = wanted(tools=[TOOL, {"type": "function", "name": "b"}], tool_choice=choice).request
    assert request.tool_choice == meant
    assert [tool["function"]["name"] for tool in request.tools] == names


@pytest.mark.parametrize(
    ("form", "wish"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, GrammarWish("json_object")),
        ({"type": "json_schema", "name": "a", "schema": {"type": "object"}}, SCHEMA_WISH),
    ],
)
def test_forms_of_texts(form: object, wish: GrammarWish | None) -> None:
    found = wanted(text={"format": form})
    assert (found.request.grammar, found.head["text"]) == (wish, {"format": form})


def test_no_effort_turns_thinking_off() -> None:
    kwargs = wanted(reasoning={"effort": "none"}).request.template_kwargs
    assert kwargs == {"enable_thinking": False, "reasoning_effort": "none"}


@pytest.mark.parametrize(
    ("fields", "parameter", "words"),
    [
        ({"input": None}, "input", "a text or a list of items: it is missing"),
        ({"input": ""}, "input", "not empty"),
        ({"input": []}, "input", "at least one item"),
        ({"input": 3}, "input", "input must be a list, not 3"),
        ({"input": ["Hi"]}, "input[0]", r"input\[0\] must be an object"),
        (
            {"input": [{"type": "image_generation_call"}]},
            "input[0].type",
            "'image_generation_call', but only",
        ),
        ({"input": [{"role": "robot", "content": ""}]}, "input[0].role", "developer"),
        ({"input": [{"role": "user"}]}, "input[0].content", "is missing"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
            "of type input_image, but the model reads text only",
        ),
        ({"input": [{"type": "function_call", "name": "a"}]}, "input[0].call_id", "is missing"),
        ({"input": [USER] * 8193}, "input", "8193 items, and at most 8192 are taken"),
        ({"tools": [TOOL] * 1025}, "tools", "1025 entries"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "is missing"),
        ({"tool_choice": "required"}, "tool_choice", "no functions are given"),
        ({"tool_choice": "maybe"}, "tool_choice", "auto or none or required"),
        ({"tool_choice": {"type": "function", "name": "b"}}, "tool_choice.name", "none of the functions"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type", "function or allowed_tools"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "json_schema, not 'xml'"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "is missing"),
        ({"background": True}, "background", "not supported"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"top_logprobs": 2}, "top_logprobs", "chat/completions"),
        ({"include": ["message.output_text.logprobs"]}, "include", "chat/completions"),
        ({"max_output_tokens": 0}, "max_output_tokens", "at least 1"),
        ({"temperature": -1}, "temperature", "at least 0"),
        ({"metadata": {"a": 1}}, "metadata", "values are texts"),
        ({"truncation": "always"}, "truncation", "auto or disabled"),
    ],
)
def test_a_refusal_names_its_field(fields: dict[str, Any], parameter: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        wanted(**fields)
    assert (caught.value.status, caught.value.parameter) == (400, parameter)


def test_an_unknown_response_is_told_with_what_to_do() -> None:
    with pytest.raises(ApiError, match=r"'resp_9' is kept here.*send the whole conversation") as caught:
        wanted(previous_response_id="resp_9")
    assert (caught.value.status, caught.value.parameter) == (404, "previous_response_id")


def response(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "output": [{"id": f"msg_{name}", "type": "message", "role": "assistant", "content": ""}],
    }


def is_kept(store: Store, name: str) -> bool:
    try:
        store.before(name)
        store.resolved([{"type": "item_reference", "id": f"msg_{name}"}])
    except ApiError:
        return False
    return True


def test_the_longest_unused_goes_first() -> None:
    store = Store(max_count=2)
    store.keep(response("a"), [USER])
    store.keep(response("b"), [USER])
    assert store.response("a")["id"] == "a"
    store.keep(response("c"), [USER])
    assert [is_kept(store, name) for name in "abc"] == [True, False, True]
    store.forget("a")
    assert [is_kept(store, name) for name in "abc"] == [False, False, True]


def test_no_more_bytes_are_kept_than_may_be() -> None:
    long = {"role": "user", "content": "x" * 400}
    store = Store(max_bytes=1200)
    for name in "abcd":
        store.keep(response(name), [long])
    assert [is_kept(store, name) for name in "abcd"] == [False, False, True, True]
    store.keep(response("e"), [{**long, "content": "x" * 1200}])
    assert [is_kept(store, name) for name in "cde"] == [True, True, False]
    store.forget("c")
    store.keep(response("f"), [long])
    assert [is_kept(store, name) for name in "df"] == [True, True]


def test_a_response_is_forgotten_once() -> None:
    store = Store()
    store.keep(response("a"), [USER])
    store.forget("a")
    with pytest.raises(ApiError, match="'a' is kept here"):
        store.forget("a")


WORDS = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "input_text", "user", "function", ""]
)
NAMES = st.sampled_from(
    [
        *(
            "role",
            "content",
            "type",
            "text",
            "name",
            "arguments",
            "call_id",
            "output",
            "summary",
            "input",
            "id",
        ),
        *("tools", "tool_choice", "instructions", "effort", "parameters", "reasoning", "include", "metadata"),
        *("temperature", "stream", "store", "truncation", "previous_response_id"),
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
        wanted_of({"model": "m", "input": "Hi", **body}, LIMITS, "resp_1", "m", Store())
    except ApiError as error:
        assert error.status in (400, 404) and error.message
