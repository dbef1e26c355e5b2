"""/v1/chat/completions on a fake session."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving import ECHO, GREEDY, TOKENIZER, Served, events, expected
from tplaunch.coordinator.text.chat.template import encode_chat

MESSAGES = [{"role": "user", "content": "Once upon a time"}]
PROMPT = encode_chat(TOKENIZER, "Once upon a time")


def fields(**others: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, "chat_template": ECHO, "max_tokens": 4, **GREEDY, **others}


def test_a_conversation_is_answered(server: Served) -> None:
    response = server.post("/v1/chat/completions", **fields())
    assert response.status_code == 200, response.text
    body = response.json()
    (choice,) = body["choices"]
    assert body["object"] == "chat.completion" and choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == expected(PROMPT, 4)


def test_it_streams(server: Served) -> None:
    response = server.post(
        "/v1/chat/completions", **fields(stream=True, n=2, stream_options={"include_usage": True})
    )
    *chunks, last = events(response)
    texts = ["", ""]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [expected(PROMPT, 4)] * 2
    assert last["usage"]["completion_tokens"] == 8


def test_logprobs_have_bytes(server: Served) -> None:
    response = server.post("/v1/chat/completions", **fields(logprobs=True, top_logprobs=2))
    entries = response.json()["choices"][0]["logprobs"]["content"]
    assert len(entries) == 4
    for entry in entries:
        assert len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
        assert entry["top_logprobs"][0]["token"] == entry["token"]


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ({"messages": []}, None),
        ({"messages": "hello"}, "messages"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"max_completion_tokens": 0}, "max_tokens"),
    ],
)
def test_a_wrong_field_is_named(server: Served, others: dict[str, Any], name: str | None) -> None:
    response = server.post("/v1/chat/completions", **fields(**others))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == name


def test_a_model_without_a_template_says_so(server: Served) -> None:
    response = server.post("/v1/chat/completions", messages=MESSAGES)
    assert response.status_code == 400 and "/v1/completions" in response.json()["error"]["message"]
