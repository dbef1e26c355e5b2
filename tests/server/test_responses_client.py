"""/v1/responses as OpenAI's own client uses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.fake_session import demo_model
from tests.scripted import WEATHER, ScriptedService, delta, deltas, scripted
from tests.serving import ECHO, NAME, TOKENIZER, Served, expected, served
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.text.answers.pieces import Content
from tplaunch.coordinator.text.chat.template import KEY, encode_chat

STORY = "Once upon a time"
PROMPT = encode_chat(TOKENIZER, STORY)
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "strict": False,
    "parameters": {"type": "object", "properties": {}},
}
GREEDY: Any = {"model": NAME, "max_output_tokens": 4, "temperature": 0, "input": STORY}
WITH_TEMPLATE = {**demo_model().metadata, KEY: ECHO}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(metadata=WITH_TEMPLATE) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def script() -> Iterator[tuple[openai.OpenAI, ScriptedService]]:
    with (
        scripted() as (running, service),
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as made,
    ):
        yield made, service


def test_a_response(client: openai.OpenAI) -> None:
    response = client.responses.create(**GREEDY, metadata={"a": "b"})
    assert (response.output_text, response.model) == (expected(PROMPT, 4), NAME)
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert (response.metadata, response.temperature, response.error) == ({"a": "b"}, 0, None)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (len(PROMPT), 4)


def test_it_streams(client: openai.OpenAI) -> None:
    events = [*client.responses.create(**GREEDY, stream=True)]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == expected(PROMPT, 4)
    assert [event.sequence_number for event in events] == [*range(len(events))]
    last = events[-1]
    assert last.type == "response.incomplete" and last.response.output_text == text


def test_it_streams_to_many_at_a_time(server: Served) -> None:
    async def text(client: openai.AsyncOpenAI) -> str:
        stream = await client.responses.create(**GREEDY, stream=True)
        return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    async def texts() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            assert (await client.responses.create(**GREEDY)).output_text == expected(PROMPT, 4)
            return await asyncio.gather(*(text(client) for _ in range(8)))

    assert asyncio.run(texts()) == [expected(PROMPT, 4)] * 8


@pytest.mark.parametrize("stream", [True, False])
def test_a_conversation_goes_on(client: openai.OpenAI, stream: bool) -> None:
    if stream:
        last = [*client.responses.create(**GREEDY, stream=True)][-1]
        assert last.type == "response.incomplete"
        first = last.response
    else:
        first = client.responses.create(**GREEDY)
    second = client.responses.create(**{**GREEDY, "input": " Then"}, previous_response_id=first.id)
    prompt = encode_chat(TOKENIZER, f"{STORY}{first.output_text} Then")
    assert second.output_text == expected(prompt, 4)
    assert second.previous_response_id == first.id
    assert second.usage is not None and second.usage.input_tokens_details.cached_tokens > 0


def test_responses_are_kept_until_they_are_not(client: openai.OpenAI) -> None:
    response = client.responses.create(**GREEDY)
    assert client.responses.retrieve(response.id).to_dict() == response.to_dict()
    client.responses.delete(response.id)
    unkept = client.responses.create(**GREEDY, store=False)
    for id in (response.id, unkept.id):
        with pytest.raises(openai.NotFoundError, match="is kept here"):
            client.responses.retrieve(id)
        with pytest.raises(openai.NotFoundError, match="send the whole conversation"):
            client.responses.create(**GREEDY, previous_response_id=id)


def test_tokens_are_counted(server: Served, client: openai.OpenAI) -> None:
    first = client.responses.create(**GREEDY)

    def count(**fields: Any) -> int:
        body = server.post("/v1/responses/input_tokens", model=NAME, **fields).json()
        assert body["object"] == "response.input_tokens"
        return int(body["input_tokens"])

    assert count(input=STORY) == len(PROMPT)
    assert count(input=" Then", previous_response_id=first.id) > len(PROMPT)


def test_tools_and_reasoning(script: tuple[openai.OpenAI, ScriptedService]) -> None:
    client, service = script
    service.script = deltas(*WEATHER, finish="tool_calls")
    fields: Any = {**GREEDY, "tools": [TOOL, {"type": "web_search"}]}
    whole = client.responses.create(**fields)
    with client.responses.stream(**fields) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_response()
    for response in (whole, streamed):
        reasoning, message, *calls = (item.to_dict() for item in response.output)
        assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
        assert (message["type"], response.output_text) == ("message", "I look.")
        assert [(call["name"], call["arguments"]) for call in calls] == [
            ("weather", '{"town": "Ulm"}'),
            ("time", "{}"),
        ]
        assert response.status == "completed" and response.usage is not None
        assert response.usage.output_tokens_details.reasoning_tokens == 2
        assert response.usage.input_tokens_details.cached_tokens == 8
    assert {"response.reasoning_text.delta", "response.function_call_arguments.done"} <= kinds
    assert [tool["function"]["name"] for tool in service.asked[-1].tools] == ["weather"]
    # What the client has got is what it sends the next time; or it names the response.
    service.script = deltas(Content("Rain."))
    outputs: Any = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"} for call in calls
    ]
    own: Any = [item.to_dict() for item in streamed.output]
    client.responses.create(**{**fields, "input": [{"role": "user", "content": STORY}, *own, *outputs]})
    client.responses.create(**{**fields, "input": outputs}, previous_response_id=streamed.id)
    assert service.asked[-1].messages == service.asked[-2].messages
    roles = [message["role"] for message in service.asked[-1].messages]
    assert roles == ["user", "assistant", "tool", "tool"]
    assert service.asked[-1].messages[1]["reasoning_content"] == "Hm."


def test_a_summary_of_reasoning_is_all_of_it(script: tuple[openai.OpenAI, ScriptedService]) -> None:
    client, service = script
    service.script = deltas(*WEATHER)
    response = client.responses.create(**GREEDY, reasoning={"effort": "low", "summary": "auto"})
    assert response.output[0].to_dict()["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert service.asked[-1].template_kwargs == {"reasoning_effort": "low"}


def test_an_error_in_mid_stream_reaches_the_client(script: tuple[openai.OpenAI, ScriptedService]) -> None:
    client, service = script
    service.script = [delta(Content("Once")), ApiError(503, "rank 1 ended", kind="server_error")]
    last = [*client.responses.create(**GREEDY, stream=True)][-1]
    assert last.type == "response.failed" and last.response.error is not None
    assert (last.response.status, last.response.error.message) == ("failed", "rank 1 ended")
    with pytest.raises(openai.APIStatusError, match="rank 1 ended") as caught:
        client.responses.create(**GREEDY)
    assert caught.value.status_code == 503


def test_errors_have_openais_form(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="background is not supported") as caught:
        client.responses.create(**GREEDY, background=True)
    assert caught.value.param == "background"
    with pytest.raises(openai.NotFoundError, match="the model 'gpt-5' is not here"):
        client.responses.create(**{**GREEDY, "model": "gpt-5"})
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.responses.create(**{**GREEDY, "input": STORY * 40}, truncation="auto")


def test_events_have_names(server: Served) -> None:
    response = server.post("/v1/responses", **GREEDY, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in response.text.split("\n\n") if event]
    names = [name.removeprefix("event: ") for name, _ in events]
    assert [json.loads(value.removeprefix("data: "))["type"] for _, value in events] == names
    assert names[0] == "response.created"
