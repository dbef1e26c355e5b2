"""A Messages client reads an answer: events in Anthropic's order and form, and the same message."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.scripted import USAGE, WEATHER, deltas
from tplaunch.coordinator.server.answer import Delta
from tplaunch.coordinator.server.anthropic.writer import SIGNATURE, MessageWriter
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.text.answers.pieces import CallArguments, CallBegin, CallEnd, Content

EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def written(answer: list[Delta], *stops: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns all events of an answer, and its message."""
    writer = MessageWriter("msg_1", "demo", stops)
    events = [*writer.begin(USAGE)]
    for delta in answer:
        events += writer.push(delta)
    events += writer.finish(USAGE)
    for event in events:
        if event["type"] != "ping":
            EVENTS.validate_python(event)
    return events, writer.whole(USAGE)


def test_every_event_comes_in_its_place() -> None:
    events, message = written(deltas(*WEATHER, finish="tool_calls"))
    call = message["content"][2]["id"]
    starts = [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": "", "citations": None},
        {"type": "tool_use", "id": call, "name": "weather", "input": {}},
        {"type": "tool_use", "id": "call-7", "name": "time", "input": {}},
    ]

    def start(index: int) -> dict[str, Any]:
        return {"type": "content_block_start", "index": index, "content_block": starts[index]}

    def change(index: int, kind: str, name: str, value: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: value}}

    assert call.startswith("toolu_")
    assert [event["type"] for event in events[:1]] == ["message_start"]
    assert events[1:] == [
        start(0),
        {"type": "ping"},
        change(0, "thinking_delta", "thinking", "Hm"),
        change(0, "thinking_delta", "thinking", "."),
        change(0, "signature_delta", "signature", SIGNATURE),
        {"type": "content_block_stop", "index": 0},
        start(1),
        change(1, "text_delta", "text", "I "),
        change(1, "text_delta", "text", "look."),
        {"type": "content_block_stop", "index": 1},
        start(2),
        change(2, "input_json_delta", "partial_json", '{"town": '),
        change(2, "input_json_delta", "partial_json", '"Ulm"}'),
        {"type": "content_block_stop", "index": 2},
        start(3),
        change(3, "input_json_delta", "partial_json", "{}"),
        {"type": "content_block_stop", "index": 3},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {
                "input_tokens": 12,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 8,
                "output_tokens": 7,
            },
        },
        {"type": "message_stop"},
    ]


def test_the_message_has_what_the_events_have() -> None:
    events, message = written(deltas(*WEATHER, finish="tool_calls"))
    Message.model_validate(message, strict=True)
    assert message["content"][:2] == [
        {"type": "thinking", "thinking": "Hm.", "signature": SIGNATURE},
        {"type": "text", "text": "I look.", "citations": None},
    ]
    assert [block["input"] for block in message["content"][2:]] == [{"town": "Ulm"}, {}]
    assert (message["stop_reason"], message["usage"]) == ("tool_use", events[-2]["usage"])
    assert events[0]["message"] == {
        **message,
        "content": [],
        "stop_reason": None,
    }


@pytest.mark.parametrize(
    ("finish", "stop", "wanted"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", 7, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", "other", ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
    ],
)
def test_the_end_has_anthropics_word(finish: str, stop: int | str | None, wanted: tuple[str, object]) -> None:
    events, message = written(deltas(Content("a"), finish=finish, stop=stop), "END")
    assert (message["stop_reason"], message["stop_sequence"]) == wanted
    assert tuple(events[-2]["delta"].values()) == wanted


def test_an_empty_answer_has_no_block() -> None:
    events, message = written(deltas(Content("")))
    assert [event["type"] for event in events] == ["message_start", "message_delta", "message_stop"]
    assert message["content"] == []


def test_a_call_that_is_cut_keeps_its_text() -> None:
    pieces = CallBegin(0, "weather"), CallArguments(0, '{"town": "U'), CallEnd(0)
    for last in (3, 2):  # a reader may end the call itself
        events, message = written(deltas(*pieces[:last], finish="length"))
        assert message["content"][0]["input"] == {"INVALID_JSON": '{"town": "U'}
        assert [event["type"] for event in events[-3:]] == [
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]


def test_a_server_that_ends_an_answer_says_so() -> None:
    with pytest.raises(ApiError, match="before it was complete"):
        written(deltas(Content("a"), finish="cancelled"))
