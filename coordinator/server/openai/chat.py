"""/v1/chat/completions: answers conversations."""

from __future__ import annotations

import secrets
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.responses import Response

from tplaunch.coordinator.server.answer import Answer, Delta
from tplaunch.coordinator.server.bodies import read_body
from tplaunch.coordinator.server.openai.conversation import chat_request
from tplaunch.coordinator.server.openai.fields import ChatFields
from tplaunch.coordinator.server.openai.logprobs import TokenNames, chat_logprobs
from tplaunch.coordinator.server.openai.shared import StreamedUsage, error_event, head, usage_of
from tplaunch.coordinator.server.sse import EventStream, LongResponse, dumped_by_parts, unless_left
from tplaunch.coordinator.server.state import check_model, limits_of, service_of
from tplaunch.coordinator.serving.sampling.picked import Picked
from tplaunch.coordinator.text.answers.pieces import CallArguments, CallBegin, Content, Piece, Reasoning

CHUNK, WHOLE = "chat.completion.chunk", "chat.completion"
LETTERS = string.ascii_letters + string.digits
Written = Callable[[Callable[[], bytes], int], Awaitable[bytes]]  # Service.written


async def answer_chat(request: Request) -> Response:
    """Answers a request to /v1/chat/completions. Raises ApiError."""
    fields = await read_body(request, ChatFields)
    check_model(request, fields.model)
    service = service_of(request)
    answer = await service.chat(chat_request(fields, limits_of(request)))
    names = TokenNames(service.opened.tokenizer)
    if fields.stream:
        chunks = stream_chat(fields, answer, head("chatcmpl", CHUNK, service.name), names)
        return EventStream(chunks, answer.close, error_event)
    whole = whole_chat(fields, answer, head("chatcmpl", WHOLE, service.name), names, service.written)
    done = await unless_left(request, answer.close, whole)
    return done if isinstance(done, Response) else LongResponse(done)


async def stream_chat(
    fields: ChatFields, answer: Answer, start: dict[str, Any], names: TokenNames
) -> AsyncIterator[bytes]:
    """Yields the events of an answer. Raises ApiError."""
    usage = StreamedUsage(fields, [answer])
    for index in range(fields.n or 1):
        role = {"role": "assistant", "content": ""}
        yield usage.chunk({**start, "choices": [_choice(index, role, None, None, None)]})
    num_top = fields.top_logprobs or 0
    async for delta in answer.deltas():
        changes = [change for change in map(_change, delta.pieces) if change is not None]
        logprobs = chat_logprobs(delta.logprobs, names, num_top) if fields.logprobs else None
        if not changes and (delta.finish_reason is not None or (logprobs and delta.logprobs)):
            changes = [{}]
        for number, change in enumerate(changes, 1):
            is_last = number == len(changes)
            choice = _choice(
                delta.index,
                change,
                logprobs if number == 1 else None,
                delta.finish_reason if is_last else None,
                delta.stop_reason if is_last else None,
            )
            if fields.return_token_ids and number == 1:
                choice["token_ids"] = list(delta.tokens)
            yield usage.chunk({**start, "choices": [choice]})
    yield usage.last(start)


def _choice(
    index: int,
    delta: dict[str, Any],
    logprobs: dict[str, Any] | None,
    finish_reason: str | None,
    stop_reason: int | str | None,
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    if finish_reason is not None:
        choice["stop_reason"] = stop_reason
    return choice


def _change(piece: Piece) -> dict[str, Any] | None:
    """Returns a piece as the delta of a chunk; None for the end of a call, which has no sign of its own."""
    if isinstance(piece, Content):
        return {"content": piece.text}
    if isinstance(piece, Reasoning):
        return {"reasoning_content": piece.text}
    if isinstance(piece, CallBegin):
        return {"tool_calls": [{"index": piece.index, **_call(piece.id, piece.name, "")}]}
    if isinstance(piece, CallArguments):
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}
    return None


def _call(name: str | None, function: str, arguments: str) -> dict[str, Any]:
    made = name or "call_" + "".join(secrets.choice(LETTERS) for _ in range(24))
    return {"id": made, "type": "function", "function": {"name": function, "arguments": arguments}}


@dataclass
class _Message:
    """One text as far as it has come."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    picked: list[Picked] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def take(self, delta: Delta) -> None:
        """Takes what is new."""
        for piece in delta.pieces:
            if isinstance(piece, Content):
                self.content.append(piece.text)
            elif isinstance(piece, Reasoning):
                self.reasoning.append(piece.text)
            elif isinstance(piece, CallBegin):
                self.calls.append(_call(piece.id, piece.name, ""))
            elif isinstance(piece, CallArguments):
                self.calls[piece.index]["function"]["arguments"] += piece.text
        self.picked += delta.logprobs
        self.tokens += delta.tokens
        self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason

    def form(self) -> dict[str, Any]:
        """Returns the message."""
        content = "".join(self.content)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if self.calls and not content.strip() else content,
            "refusal": None,
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


async def whole_chat(
    fields: ChatFields, answer: Answer, start: dict[str, Any], names: TokenNames, written: Written
) -> bytes:
    """Returns the body of an answer. Raises ApiError."""
    messages = [_Message() for _ in range(fields.n or 1)]
    async for delta in answer.deltas():
        messages[delta.index].take(delta)
    num_entries = sum(len(message.picked) for message in messages) * (1 + (fields.top_logprobs or 0))
    return await written(lambda: dumped_by_parts(_body(fields, answer, start, names, messages)), num_entries)


def _body(
    fields: ChatFields,
    answer: Answer,
    start: dict[str, Any],
    names: TokenNames,
    messages: Sequence[_Message],
) -> dict[str, Any]:
    tokens = {"prompt_token_ids": list(answer.prompt)} if fields.return_token_ids else {}
    return {
        **start,
        **tokens,
        "choices": [_whole_choice(fields, *numbered, names) for numbered in enumerate(messages)],
        "usage": usage_of([answer]),
    }


def _whole_choice(fields: ChatFields, index: int, message: _Message, names: TokenNames) -> dict[str, Any]:
    logprobs = None
    if fields.logprobs:
        logprobs = chat_logprobs(message.picked, names, fields.top_logprobs or 0)
    choice = {
        "index": index,
        "message": message.form(),
        "logprobs": logprobs,
        "finish_reason": message.finish_reason,
        "stop_reason": message.stop_reason,
    }
    if fields.return_token_ids:
        choice["token_ids"] = message.tokens
    return choice
