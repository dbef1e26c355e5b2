"""OpenAI's forms of an answer with reasoning and calls, whole and in chunks, and what messages become."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from tplaunch.coordinator.server.answer import Answer, Delta, Usage
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.messages import for_templates, with_read_arguments
from tplaunch.coordinator.server.openai.chat import stream_chat, whole_chat
from tplaunch.coordinator.server.openai.conversation import chat_request
from tplaunch.coordinator.server.openai.fields import ChatFields
from tplaunch.coordinator.server.openai.logprobs import TokenNames
from tplaunch.coordinator.server.settings import LIMITS
from tplaunch.coordinator.server.wanted import GrammarWish, ToolChoice
from tplaunch.coordinator.text.answers.pieces import (
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    Piece,
    Reasoning,
)

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
PIECES: Sequence[Piece] = (
    Reasoning("It asks"),
    Reasoning(" for weather."),
    Content("\n"),
    CallBegin(0, "weather"),
    CallArguments(0, '{"city":'),
    CallArguments(0, '"Oslo"}'),
    CallEnd(0),
    CallBegin(1, "time", "abc"),
    CallArguments(1, "{}"),
    CallEnd(1),
)


class Told(Answer):
    """An answer that is known beforehand."""

    prompt = (1, 2)
    usage = Usage(2, 1, len(PIECES), 2)

    def __init__(self) -> None:
        pass

    async def deltas(self) -> AsyncIterator[Delta]:
        for place, piece in enumerate(PIECES, 1):
            yield Delta(0, [piece], [place], (), "tool_calls" if place == len(PIECES) else None)


async def written(make: Callable[[], bytes], num_entries: int) -> bytes:
    return make()


def fields(**others: Any) -> ChatFields:
    return ChatFields.model_validate({"messages": [{"role": "user", "content": "x"}], **others})


def test_calls_and_reasoning_have_their_places() -> None:
    body = json.loads(asyncio.run(whole_chat(fields(), Told(), {"id": "a"}, TokenNames(None), written)))
    (choice,) = body["choices"]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls" and message["content"] is None
    assert message["reasoning_content"] == "It asks for weather."
    first, second = message["tool_calls"]
    assert first["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert first["id"].startswith("call_") and len(first["id"]) == 29 and second["id"] == "abc"
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


def test_calls_stream() -> None:
    async def read() -> list[bytes]:
        wanted = fields(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
        return [chunk async for chunk in stream_chat(wanted, Told(), {"id": "a"}, TokenNames(None))]

    *chunks, last = asyncio.run(read())
    parsed = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks]
    assert all(chunk["usage"]["prompt_tokens"] == 2 for chunk in parsed)
    deltas = [chunk["choices"][0]["delta"] for chunk in parsed]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1:4] == [
        {"reasoning_content": "It asks"},
        {"reasoning_content": " for weather."},
        {"content": "\n"},
    ]
    begin = deltas[4]["tool_calls"][0]
    assert begin["index"] == 0 and begin["function"] == {"name": "weather", "arguments": ""} and begin["id"]
    assert deltas[5] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}
    assert deltas[-1] == {} and parsed[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert last.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("given", "wish"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, GrammarWish("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"a": 1}}}},
            GrammarWish("json_schema", {"a": 1}),
        ),
        ({"guided_json": '{"type": "object"}'}, GrammarWish("json_schema", {"type": "object"})),
        ({"guided_regex": "a+"}, GrammarWish("regex", "a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, GrammarWish("choice", ["a", "b"])),
        ({"structured_outputs": {"grammar": "start: A"}}, GrammarWish("lark", "start: A")),
    ],
)
def test_a_form_is_read(given: dict[str, Any], wish: GrammarWish | None) -> None:
    assert chat_request(fields(**given), LIMITS).grammar == wish


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_json": "{"}, "guided_json"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"modalities": ["audio"]}, "modalities"),
    ],
)
def test_a_form_that_is_not_known_is_refused(given: dict[str, Any], name: str) -> None:
    with pytest.raises(ApiError) as caught:
        chat_request(fields(**given), LIMITS)
    assert caught.value.status == 400 and caught.value.parameter == name


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "weather"}}, ToolChoice("required", "weather")),
    ],
)
def test_a_tool_is_chosen(choice: Any, expected: ToolChoice) -> None:
    assert chat_request(fields(tools=[TOOL], tool_choice=choice), LIMITS).tool_choice == expected


def test_reasoning_effort_goes_to_the_template() -> None:
    request = chat_request(fields(reasoning_effort="none", chat_template_kwargs={"a": 1}), LIMITS)
    assert request.template_kwargs == {"reasoning_effort": "none", "enable_thinking": False, "a": 1}


def test_messages_become_what_templates_know() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    first, second = for_templates(
        [
            {"role": "developer", "content": [{"type": "input_text", "text": "Be short."}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
    )
    assert first == {"role": "system", "content": [{"type": "text", "text": "Be short."}]}
    assert second["tool_calls"][0]["function"]["arguments"] == '{"x": 1}'
    (read,) = with_read_arguments([second])
    assert read["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    broken = {**second, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
    assert with_read_arguments([broken])[0]["tool_calls"] == broken["tool_calls"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}]},
        {"role": "user", "content": ["text"]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "assistant", "tool_calls": [{"function": {}}]},
        {"role": "assistant", "tool_calls": 3},
    ],
)
def test_nothing_of_a_message_is_left_out(message: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="message 1"):
        for_templates([message])
