"""The paths that make tokens of texts and texts of tokens, in vLLM's form, as lm-evaluation-harness asks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from tplaunch.coordinator.server.bodies import Body, Objects, Tokens, read_body
from tplaunch.coordinator.server.described import takes
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.service import Service
from tplaunch.coordinator.server.sse import dumped
from tplaunch.coordinator.server.state import check_model, service_of
from tplaunch.coordinator.server.wanted import ChatRequest
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.detokenizer import WithControlTokens
from tplaunch.coordinator.text.tokenizer import Tokenizer, TokenizerError

TEXT, FLAG = "a text", "true or false"


class TokenizeFields(Body):
    """Fields of /tokenize: a prompt, or messages."""

    model: str | None = Field(None, description=TEXT)
    prompt: str | None = Field(None, description=TEXT)
    content: str | None = Field(None, description=TEXT)  # llama.cpp's name of prompt
    messages: Objects | None = Field(None, description="a list of objects")
    tools: Objects | None = Field(None, description="a list of objects")
    add_special_tokens: bool | None = Field(None, description=FLAG)
    add_special: bool | None = Field(None, description=FLAG)  # llama.cpp's name of it, false by default
    add_generation_prompt: bool | None = Field(None, description=FLAG)
    continue_final_message: bool | None = Field(None, description=FLAG)
    return_token_strs: bool | None = Field(None, description=FLAG)
    chat_template: str | None = Field(None, description=TEXT)
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="an object")


class DetokenizeFields(Body):
    """Fields of /detokenize."""

    model: str | None = Field(None, description=TEXT)
    tokens: Tokens = Field(description="a list of token ids")


def make_tokens_router() -> APIRouter:
    """Returns the paths."""
    router = APIRouter()
    router.add_api_route("/tokenize", _tokenize, methods=["POST"], openapi_extra=takes(TokenizeFields))
    router.add_api_route("/detokenize", _detokenize, methods=["POST"], openapi_extra=takes(DetokenizeFields))
    router.add_api_route("/tokenizer_info", _info, methods=["GET"])
    return router


async def _tokenize(request: Request) -> Response:
    """Returns the token ids of a text, control tokens' names in it included, or of a conversation."""
    fields = await read_body(request, TokenizeFields)
    check_model(request, fields.model)
    service = service_of(request)
    tokens = await _tokens(service, fields)
    found: dict[str, Any] = {
        "tokens": tokens,
        "count": len(tokens),
        "max_model_len": service.opened.driver.session.limits.context_length,
    }

    def body() -> bytes:
        if fields.return_token_strs:
            tokenizer = _tokenizer(service)
            found["token_strs"] = [tokenizer.token_text(token) for token in tokens]
        return dumped(found)

    return Response(await service.prepared(body, tokens), media_type="application/json")


async def _tokens(service: Service, fields: TokenizeFields) -> list[int]:
    if fields.messages is not None:
        continues = bool(fields.continue_final_message)
        wanted = ChatRequest(
            fields.messages,
            SamplingParams(),
            fields.tools or (),
            template_kwargs=fields.chat_template_kwargs or {},
            chat_template=fields.chat_template,
            add_generation_prompt=fields.add_generation_prompt is not False and not continues,
            continue_final_message=continues,
        )
        return (await service.rendered(wanted))[1]
    text, adds = fields.prompt, fields.add_special_tokens is not False
    if text is None:
        text, adds = fields.content, bool(fields.add_special)
    if text is None:
        raise ApiError(400, "prompt is missing, and so are messages; give one", parameter="prompt")
    # Names of control tokens are these tokens: lm-evaluation-harness asks for the ids of end tokens so.
    return await service.tokens_of(text, add_special=adds, parse_special=True)


async def _detokenize(request: Request) -> Response:
    """Returns the text of token ids, with control tokens by their names."""
    fields = await read_body(request, DetokenizeFields)
    check_model(request, fields.model)
    service = service_of(request)
    tokenizer = _tokenizer(service)
    try:
        found = await service.prepared(lambda: _whole_text(tokenizer, fields.tokens), fields.tokens)
    except ApiError as error:
        raise ApiError(400, error.message, parameter="tokens") from None
    return Response(dumped({"prompt": found, "content": found}), media_type="application/json")


def _whole_text(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """The text that encode makes these tokens of. Raises TokenizerError."""
    named = WithControlTokens(tokenizer)
    num_begin = next((at for at, token in enumerate(tokens) if tokenizer.token_bytes(token)), len(tokens))
    begin = b"".join(map(named.token_bytes, tokens[:num_begin]))
    text = b"".join(map(named.token_bytes, tokens[num_begin:]))
    if tokenizer.adds_space_prefix:
        text = text.removeprefix(b" ")
    return (begin + text).decode("utf-8", "replace")


async def _info(request: Request) -> Response:
    """Returns the facts of the tokenizer by which a client renders conversations and ends texts itself."""
    service = service_of(request)
    return Response(dumped(tokenizer_facts(service)), media_type="application/json")


def tokenizer_facts(service: Service) -> dict[str, Any]:
    """Returns the names of a tokenizer's tokens, and the chat template."""
    tokenizer = _tokenizer(service)
    ids = {"bos_token": tokenizer.bos_token_id, "eos_token": tokenizer.eos_token_id}
    return {
        "tokenizer_class": type(tokenizer).__name__,
        **{name: None if token is None else tokenizer.token_text(token) for name, token in ids.items()},
        "pad_token": None,
        "chat_template": service.opened.template_source,
        "vocab_size": tokenizer.vocabulary_size,
        "add_bos_token": tokenizer.adds_bos,
        "model_max_length": service.opened.driver.session.limits.context_length,
    }


def _tokenizer(service: Service) -> Tokenizer:
    try:
        return service.opened.needed_tokenizer()
    except TokenizerError as error:
        raise ApiError(400, str(error)) from None
