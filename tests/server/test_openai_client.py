"""The real openai package against the server: sync and async, whole and streaming."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest

from tests.serving import ECHO, NAME, TOKENIZER, Served, expected
from tplaunch.coordinator.text.chat.template import encode_chat

PROMPT = [5, 6, 7]
CHAT = encode_chat(TOKENIZER, "Hello")
EXTRA = {"ignore_eos": True, "chat_template": ECHO}


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_it_lists_and_finds_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "tplaunch"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_it_completes(client: openai.OpenAI) -> None:
    made = client.completions.create(
        model=NAME, prompt=PROMPT, max_tokens=4, temperature=0, logprobs=2, extra_body={"ignore_eos": True}
    )
    assert made.choices[0].text == expected(PROMPT, 4)
    logprobs = made.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens is not None and len(logprobs.tokens) == 4
    assert made.usage is not None and made.usage.total_tokens == 7


def test_it_streams_a_completion(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=NAME, prompt=[PROMPT, [9]], max_tokens=4, temperature=0, stream=True, extra_body=dict(EXTRA)
    )
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [expected(PROMPT, 4), expected([9], 4)]


def test_it_answers_a_conversation(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "Hello"}],
        max_completion_tokens=4,
        temperature=0,
        logprobs=True,
        top_logprobs=1,
        user="somebody",
        metadata={"a": "b"},
        store=False,
        extra_body=dict(EXTRA),
    )
    assert made.choices[0].message.content == expected(CHAT, 4)
    logprobs = made.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None and len(logprobs.content) == 4


def test_many_stream_at_once(server: Served) -> None:
    async def ask(client: openai.AsyncOpenAI, text: str) -> str:
        stream = await client.chat.completions.create(
            model=NAME,
            messages=[{"role": "user", "content": text}],
            max_completion_tokens=6,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=dict(EXTRA),
        )
        found = ""
        usage = None
        async for chunk in stream:
            found += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        assert usage is not None and usage.completion_tokens == 6
        return found

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(ask(client, text) for text in texts))

    texts = [f"Hello {number}" for number in range(20)]
    assert asyncio.run(ask_all()) == [expected(encode_chat(TOKENIZER, text), 6) for text in texts]


def test_an_error_has_its_class(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.completions.create(model=NAME, prompt=PROMPT, temperature=-1)
    assert caught.value.param == "temperature"
