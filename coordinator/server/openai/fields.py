"""The fields of OpenAI's bodies, and the further ones that vLLM, llama.cpp and this program take in them.

A field's description ends the sentence that refuses a value of another type. A field that no model here has
is left alone.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tplaunch.coordinator.server.bodies import Body, Objects, SeveralTokens, Texts, Tokens

NUMBER, INTEGER, FLAG = "a number", "a whole number", "true or false"
TEXT, TEXTS, TOKENS = "a text", "a text or a list of texts", "a list of token ids"
OBJECT, OBJECTS = "an object", "a list of objects"


def _field(description: str) -> Any:
    return Field(None, description=description)


class StreamOptions(Body):
    """Fields of stream_options."""

    include_usage: bool | None = _field(FLAG)
    continuous_usage_stats: bool | None = _field(FLAG)


class SamplingFields(Body):
    """Fields that say how tokens are picked; each has the name and the meaning that SamplingParams has."""

    n: int | None = _field(INTEGER)
    temperature: float | None = _field(NUMBER)
    top_p: float | None = _field(NUMBER)
    top_k: int | None = _field(INTEGER)
    min_p: float | None = _field(NUMBER)
    typical_p: float | None = _field(NUMBER)
    top_n_sigma: float | None = _field(NUMBER)
    xtc_probability: float | None = _field(NUMBER)
    xtc_threshold: float | None = _field(NUMBER)
    dry_multiplier: float | None = _field(NUMBER)
    dry_base: float | None = _field(NUMBER)
    dry_allowed_length: int | None = _field(INTEGER)
    dry_penalty_last_n: int | None = _field(INTEGER)
    dry_sequence_breakers: Texts | None = _field("a list of texts")
    repetition_penalty: float | None = _field(NUMBER)
    repeat_last_n: int | None = _field(INTEGER)
    presence_penalty: float | None = _field(NUMBER)
    frequency_penalty: float | None = _field(NUMBER)
    logit_bias: dict[str, float] | None = _field("an object of token ids and numbers")
    allowed_token_ids: Tokens | None = _field(TOKENS)
    bad_token_ids: Tokens | None = _field(TOKENS)
    min_tokens: int | None = _field(INTEGER)
    stop: str | Texts | None = _field(TEXTS)
    stop_token_ids: Tokens | None = _field(TOKENS)
    include_stop_str_in_output: bool | None = _field(FLAG)
    ignore_eos: bool | None = _field(FLAG)
    seed: int | None = _field(INTEGER)
    skip_special_tokens: bool | None = _field(FLAG)
    samplers: str | Texts | None = _field("a list of stages")


class CommonFields(SamplingFields):
    """Fields of completions and of chat completions."""

    model: str | None = _field(TEXT)
    max_tokens: int | None = _field(INTEGER)
    repeat_penalty: float | None = _field(NUMBER)  # llama.cpp's name of repetition_penalty
    stream: bool | None = _field(FLAG)
    stream_options: StreamOptions | None = _field("an object with include_usage")
    return_token_ids: bool | None = _field(FLAG)
    structured_outputs: dict[str, Any] | None = _field(OBJECT)
    guided_json: dict[str, Any] | str | None = _field("a JSON schema, as an object or a text")
    guided_regex: str | None = _field("a regular expression")
    guided_choice: Texts | None = _field("a list of texts")
    guided_grammar: str | None = _field("a grammar as text")
    grammar: str | None = _field("a grammar as text")
    response_format: dict[str, Any] | None = _field("an object with a type")


class CompletionFields(CommonFields):
    """Fields of /v1/completions."""

    prompt: str | Tokens | Texts | SeveralTokens | None = _field(
        "a text, a list of token ids, or a list of several of one of these"
    )
    logprobs: int | None = _field(INTEGER)
    echo: bool | None = _field(FLAG)
    best_of: int | None = _field(INTEGER)
    suffix: str | None = _field(TEXT)
    add_special_tokens: bool | None = _field(FLAG)


class ChatFields(CommonFields):
    """Fields of /v1/chat/completions."""

    messages: Objects = Field(description=OBJECTS)
    max_completion_tokens: int | None = _field(INTEGER)
    logprobs: bool | None = _field(FLAG)
    top_logprobs: int | None = _field(INTEGER)
    tools: Objects | None = _field(OBJECTS)
    tool_choice: str | dict[str, Any] | None = _field("none, auto, required or an object that names a tool")
    parallel_tool_calls: bool | None = _field(FLAG)
    functions: Objects | None = _field(OBJECTS)
    function_call: str | dict[str, Any] | None = _field("a text or an object")
    reasoning_effort: str | None = _field(TEXT)
    reasoning_budget: int | None = _field(INTEGER)
    chat_template: str | None = _field(TEXT)
    chat_template_kwargs: dict[str, Any] | None = _field(OBJECT)
    add_generation_prompt: bool | None = _field(FLAG)
    continue_final_message: bool | None = _field(FLAG)
    documents: Objects | None = _field(OBJECTS)
    modalities: Texts | None = _field("a list of texts")
    audio: dict[str, Any] | None = _field(OBJECT)
