"""A Responses client reads an answer: events in OpenAI's order and form, and the same response."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.scripted import USAGE, WEATHER, delta, deltas
from tplaunch.coordinator.server.answer import Delta
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.responses.writer import ResponseWriter
from tplaunch.coordinator.text.answers.pieces import CallArguments, CallBegin, Content, Reasoning

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
HEAD = {
    "id": "resp_1",
    "object": "response",
    "model": "demo",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
EMPTY_TEXT = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def written(answer: list[Delta], *, summarizes: bool = False) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns all events of an answer, and its response."""
    writer = ResponseWriter(HEAD, 5, summarizes=summarizes)
    events = [*writer.begin(USAGE)]
    for one in answer:
        events += writer.push(one)
    events += writer.finish(USAGE)
    checked(events)
    return events, writer.whole(USAGE)


def checked(events: list[dict[str, Any]]) -> None:
    for number, event in enumerate(events):
        EVENTS.validate_python(event)
        assert event["sequence_number"] == number


def told(event: dict[str, Any]) -> tuple[Any, ...]:
    """Returns an event without the fields that all have."""
    ids = {"type", "sequence_number", "item_id", "item", "response"}
    return event["type"].removeprefix("response."), {key: event[key] for key in event.keys() - ids}


def test_every_event_comes_in_its_place() -> None:
    events, response = written(deltas(*WEATHER, finish="tool_calls"))
    first, second, third, last = ({"output_index": index} for index in range(4))
    reasoning, text = {**first, "content_index": 0}, {**second, "content_index": 0}
    whole = {**EMPTY_TEXT, "text": "I look."}
    assert [told(event) for event in events] == [
        ("created", {}),
        ("in_progress", {}),
        ("output_item.added", first),
        ("content_part.added", {**reasoning, "part": {"type": "reasoning_text", "text": ""}}),
        ("reasoning_text.delta", {**reasoning, "delta": "Hm"}),
        ("reasoning_text.delta", {**reasoning, "delta": "."}),
        ("reasoning_text.done", {**reasoning, "text": "Hm."}),
        ("content_part.done", {**reasoning, "part": {"type": "reasoning_text", "text": "Hm."}}),
        ("output_item.done", first),
        ("output_item.added", second),
        ("content_part.added", {**text, "part": EMPTY_TEXT}),
        ("output_text.delta", {**text, "logprobs": [], "delta": "I "}),
        ("output_text.delta", {**text, "logprobs": [], "delta": "look."}),
        ("output_text.done", {**text, "logprobs": [], "text": "I look."}),
        ("content_part.done", {**text, "part": whole}),
        ("output_item.done", second),
        ("output_item.added", third),
        ("function_call_arguments.delta", {**third, "delta": '{"town": '}),
        ("function_call_arguments.delta", {**third, "delta": '"Ulm"}'}),
        ("function_call_arguments.done", {**third, "name": "weather", "arguments": '{"town": "Ulm"}'}),
        ("output_item.done", third),
        ("output_item.added", last),
        ("function_call_arguments.delta", {**last, "delta": "{}"}),
        ("function_call_arguments.done", {**last, "name": "time", "arguments": "{}"}),
        ("output_item.done", last),
        ("completed", {}),
    ]
    for event in events:
        if "item_id" in event:
            assert event["item_id"] == response["output"][event["output_index"]]["id"]


def test_items_are_told_as_they_were_and_as_they_are() -> None:
    events, response = written(deltas(*WEATHER, finish="tool_calls"))
    added = [event["item"] for event in events if event["type"].endswith("item.added")]
    done = [event["item"] for event in events if event["type"].endswith("item.done")]
    assert done == response["output"]
    assert [item["status"] for item in added] == ["in_progress"] * 4
    assert [item["status"] for item in done] == ["completed"] * 4
    assert [item.get("content") for item in added] == [[], [], None, None]
    assert [item["id"].partition("_")[0] for item in done] == ["rs", "msg", "fc", "fc"]
    assert (done[2]["name"], done[2]["arguments"]) == ("weather", '{"town": "Ulm"}')
    assert done[2]["call_id"].startswith("call_")
    assert (added[2]["arguments"], done[3]["call_id"]) == ("", "call-7")


def test_the_response_has_its_form() -> None:
    events, response = written(deltas(*WEATHER, finish="tool_calls"))
    parsed = Response.model_validate(response, strict=True)
    assert (parsed.output_text, parsed.status, parsed.created_at) == ("I look.", "completed", 5)
    assert events[-1]["response"] == response
    assert (events[0]["response"]["status"], events[0]["response"]["output"]) == ("in_progress", [])
    assert response["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 27,
    }


def test_reasoning_goes_out_as_a_summary_where_one_is_wanted() -> None:
    events, response = written(deltas(Reasoning("Hm"), Reasoning("."), Content("a")), summarizes=True)
    place = {"output_index": 0, "summary_index": 0}
    assert [told(event) for event in events[2:9]] == [
        ("output_item.added", {"output_index": 0}),
        ("reasoning_summary_part.added", {**place, "part": {"type": "summary_text", "text": ""}}),
        ("reasoning_summary_text.delta", {**place, "delta": "Hm"}),
        ("reasoning_summary_text.delta", {**place, "delta": "."}),
        ("reasoning_summary_text.done", {**place, "text": "Hm."}),
        ("reasoning_summary_part.done", {**place, "part": {"type": "summary_text", "text": "Hm."}}),
        ("output_item.done", {"output_index": 0}),
    ]
    assert response["output"][0]["summary"] == [{"type": "summary_text", "text": "Hm."}]


def test_an_answer_that_is_cut_says_by_what() -> None:
    events, response = written(deltas(CallBegin(0, "weather"), CallArguments(0, '{"to'), finish="length"))
    assert events[-1]["type"] == "response.incomplete"
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["arguments"] == '{"to'


def test_an_answer_that_fails_ends_with_its_error() -> None:
    writer = ResponseWriter(HEAD, 5)
    events = [
        *writer.begin(USAGE),
        *writer.push(delta(Content("a"))),
        *writer.fail(ApiError(500, "rank 1 died")),
    ]
    checked(events)
    assert [event["type"] for event in events[-2:]] == ["response.output_item.done", "response.failed"]
    response = events[-1]["response"]
    assert (response["status"], response["output"][0]["status"]) == ("failed", "incomplete")
    assert response["error"] == {"code": "server_error", "message": "rank 1 died"}


def test_an_empty_answer_has_no_item() -> None:
    events, response = written(deltas())
    assert [event["type"] for event in events[2:]] == ["response.completed"]
    assert response["output"] == []


def test_a_server_that_ends_an_answer_says_so() -> None:
    with pytest.raises(ApiError, match="before it was complete"):
        written(deltas(Content("a"), finish="cancelled"))
