"""/v1/messages as Anthropic's own client uses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.fake_session import LIMITS, demo_model
from tests.scripted import WEATHER, ScriptedService, delta, deltas, scripted
from tests.serving import ECHO, NAME, TOKENIZER, Served, expected, served
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.text.answers.pieces import Content
from tplaunch.coordinator.text.chat.template import KEY, encode_chat

STORY = "Once upon a time"
USER: Any = {"role": "user", "content": STORY}
PROMPT = encode_chat(TOKENIZER, STORY)
TOOL: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
MODEL = "claude-haiku-4-5"  # programs ask for names that they have built in
# Newer clients know no temperature; the body may have one all the same.
GREEDY: Any = {"model": MODEL, "max_tokens": 4, "messages": [USER], "extra_body": {"temperature": 0}}
WITH_TEMPLATE = {**demo_model().metadata, KEY: ECHO}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(metadata=WITH_TEMPLATE) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def script() -> Iterator[tuple[anthropic.Anthropic, ScriptedService]]:
    with (
        scripted() as (running, service),
        anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0) as made,
    ):
        yield made, service


def test_a_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(**GREEDY)
    assert [block.to_dict() for block in message.content] == [
        {"type": "text", "text": expected(PROMPT, 4), "citations": None}
    ]
    assert (message.stop_reason, message.model, message.role) == ("max_tokens", NAME, "assistant")
    usage = message.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == len(PROMPT)
    assert usage.output_tokens == 4


def test_it_streams(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**GREEDY) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == expected(PROMPT, 4)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 4)


def test_it_streams_to_many_at_a_time(server: Served) -> None:
    async def text(client: anthropic.AsyncAnthropic) -> str:
        async with client.messages.stream(**GREEDY) as stream:
            return "".join([part async for part in stream.text_stream])

    async def texts() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none") as client:
            whole = await client.messages.create(**GREEDY)
            assert whole.content[0].to_dict()["text"] == expected(PROMPT, 4)
            return await asyncio.gather(*(text(client) for _ in range(8)))

    assert asyncio.run(texts()) == [expected(PROMPT, 4)] * 8


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    stop = expected(PROMPT, 4)[-3:]
    message = client.messages.create(**{**GREEDY, "max_tokens": 8}, stop_sequences=["no such text", stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    assert client.messages.count_tokens(model=MODEL, messages=[USER]).input_tokens == len(PROMPT)
    longer = client.messages.count_tokens(model=MODEL, messages=[USER], system=STORY)
    assert longer.input_tokens > len(PROMPT)


def test_an_answer_that_has_begun_goes_on(client: anthropic.Anthropic) -> None:
    begun = [USER, {"role": "assistant", "content": " there"}]
    message = client.messages.create(**{**GREEDY, "messages": begun})
    prompt = encode_chat(TOKENIZER, f"{STORY} there")
    assert message.content[0].to_dict()["text"] == expected(prompt, 4)


def test_beta_calls_are_the_same(client: anthropic.Anthropic) -> None:
    message = client.beta.messages.create(**GREEDY, betas=["interleaved-thinking-2025-05-14"])
    assert message.content[0].to_dict()["text"] == expected(PROMPT, 4)


def test_a_block_that_changes_spoils_no_cache() -> None:
    """The system text, which is what agents have in common, comes out of the cache at the second call."""
    system = "Once upon a time, there was a little girl who liked to play in the park."
    read = []
    with (
        served(metadata=WITH_TEMPLATE) as server,
        anthropic.Anthropic(base_url=server.url, api_key="none") as client,
    ):
        for number in range(2):
            header = {"type": "text", "text": f"x-anthropic-billing-header: cch={number}ab;"}
            blocks: Any = [header, {"type": "text", "text": system}]
            usage = client.messages.create(**GREEDY, system=blocks).usage
            read.append(usage.cache_read_input_tokens)
            assert usage.cache_creation_input_tokens == 0
    assert read[0] == 0
    assert read[1] and read[1] >= len(TOKENIZER.encode(system)) // LIMITS.block_length * LIMITS.block_length


def test_tools_and_thinking(script: tuple[anthropic.Anthropic, ScriptedService]) -> None:
    client, service = script
    service.script = deltas(*WEATHER, finish="tool_calls")
    fields: Any = {**GREEDY, "tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}}
    whole = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        thinking, text, *calls = (block.to_dict() for block in message.content)
        assert (thinking["thinking"], text["text"]) == ("Hm.", "I look.")
        assert [(call["name"], call["input"]) for call in calls] == [
            ("weather", {"town": "Ulm"}),
            ("time", {}),
        ]
        assert (message.stop_reason, message.usage.cache_read_input_tokens) == ("tool_use", 8)
    assert {"thinking", "signature", "text", "input_json"} <= set(kinds)
    assert (service.asked[-1].reasoning_budget, service.asked[-1].template_kwargs) == (
        1024,
        {"enable_thinking": True},
    )
    # What the client has got is what it sends the next time.
    service.script = deltas(Content("Rain."))
    results = [{"type": "tool_result", "tool_use_id": call["id"], "content": "rain"} for call in calls]
    turns: Any = [
        USER,
        {"role": "assistant", "content": [block.to_dict() for block in whole.content]},
        {"role": "user", "content": results},
    ]
    client.messages.create(**{**fields, "messages": turns})
    roles = [message["role"] for message in service.asked[-1].messages]
    assert roles == ["user", "assistant", "tool", "tool"]
    assert service.asked[-1].messages[1]["reasoning_content"] == "Hm."


def test_an_error_in_mid_stream_reaches_the_client(
    script: tuple[anthropic.Anthropic, ScriptedService],
) -> None:
    client, service = script
    service.script = [delta(Content("Once")), ApiError(503, "rank 1 ended", kind="server_error")]
    with (
        pytest.raises(anthropic.APIStatusError, match="rank 1 ended"),
        client.messages.stream(**GREEDY) as stream,
    ):
        stream.until_done()
    with pytest.raises(anthropic.APIStatusError, match="rank 1 ended") as caught:
        client.messages.create(**GREEDY)
    assert caught.value.status_code == 503


def test_errors_have_anthropics_form(server: Served, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="top_p must be between 0 and 1, not 7"):
        client.messages.create(**{**GREEDY, "extra_body": {"top_p": 7}})
    too_long: Any = {**GREEDY, "messages": [{"role": "user", "content": STORY * 40}]}
    with pytest.raises(anthropic.BadRequestError, match="tokens"):
        client.messages.create(**too_long)
    response = server.post("/v1/messages", model="m", max_tokens=3, messages=[])
    body = response.json()
    assert (response.status_code, body["type"]) == (400, "error")
    assert body["error"]["type"] == "invalid_request_error" and "messages" in body["error"]["message"]
    assert body["request_id"].startswith("req_")


def test_events_have_names(server: Served) -> None:
    response = server.post("/v1/messages", model="m", max_tokens=3, messages=[USER], stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in response.text.split("\n\n") if event]
    names = [name.removeprefix("event: ") for name, _ in events]
    values = [json.loads(value.removeprefix("data: ")) for _, value in events]
    assert [value["type"] for value in values] == names
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
