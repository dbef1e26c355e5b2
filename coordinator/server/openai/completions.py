"""/v1/completions: continues prompts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.responses import Response

from tplaunch.coordinator.server.answer import Answer, Delta
from tplaunch.coordinator.server.bodies import read_body
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.openai.fields import CompletionFields
from tplaunch.coordinator.server.openai.logprobs import CompletionLogprobs, TokenNames
from tplaunch.coordinator.server.openai.parameters import checked_top, sampling_params
from tplaunch.coordinator.server.openai.shared import (
    StreamedUsage,
    all_begun,
    close_all,
    error_event,
    head,
    merged,
    usage_of,
)
from tplaunch.coordinator.server.settings import ClientLimits
from tplaunch.coordinator.server.sse import EventStream, dumped, unless_left
from tplaunch.coordinator.server.state import check_model, limits_of, service_of
from tplaunch.coordinator.server.wanted import TextRequest
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.tokenizer import Tokenizer, decode

DEFAULT_TOKENS = 16  # OpenAI's
KIND = "text_completion"


async def complete(request: Request) -> Response:
    """Answers a request to /v1/completions. Raises ApiError."""
    fields = await read_body(request, CompletionFields)
    check_model(request, fields.model)
    limits, service = limits_of(request), service_of(request)
    prompts = _prompts(fields, limits)
    params = _params(fields, limits)
    texts = [TextRequest(prompt, params) for prompt in prompts]
    answers = await all_begun([service.text(text) for text in texts])
    writer = _Writer(fields, answers, head("cmpl", KIND, service.name), service.opened.tokenizer)
    if fields.stream:
        return EventStream(writer.stream(), close_all(answers), error_event)
    done = await unless_left(request, close_all(answers), writer.whole())
    return done if isinstance(done, Response) else Response(dumped(done), media_type="application/json")


def _prompts(fields: CompletionFields, limits: ClientLimits) -> Sequence[str | Sequence[int]]:
    """Returns the prompts, each a text or token ids. Raises ApiError."""
    given = fields.prompt
    if given is None:
        raise ApiError(400, "prompt is missing, and is needed", parameter="prompt")
    if isinstance(given, str):
        return [given]
    if not given:
        raise ApiError(400, "prompt is an empty list; give a text or token ids", parameter="prompt")
    several: list[Any] = [given] if isinstance(given[0], int) else given
    if len(several) > limits.prompts:
        raise ApiError(
            400,
            f"prompt has {len(several)} prompts, and at most {limits.prompts} are taken",
            parameter="prompt",
        )
    return several


def _params(fields: CompletionFields, limits: ClientLimits) -> SamplingParams:
    if fields.suffix:
        raise ApiError(400, "suffix is not supported: text is only continued", parameter="suffix")
    if fields.best_of not in (None, fields.n or 1):
        raise ApiError(400, f"best_of must be n, which is {fields.n or 1}, or left out", parameter="best_of")
    if fields.max_tokens == 0 and not fields.echo:
        raise ApiError(400, "max_tokens must be at least 1, but with echo", parameter="max_tokens")
    wanted = DEFAULT_TOKENS if fields.max_tokens is None else fields.max_tokens
    others: dict[str, Any] = {"max_tokens": max(1, wanted) if wanted == 0 else wanted}
    if fields.logprobs is not None:
        others["logprobs"] = checked_top("logprobs", fields.logprobs, limits)
        if fields.echo:
            others["prompt_logprobs"] = others["logprobs"]
    return sampling_params(fields, limits, **others)


@dataclass
class _Choice:
    """One text as far as it has come."""

    logprobs: CompletionLogprobs | None
    has_begun: bool = False
    num_tokens: int = 0
    texts: list[str] = field(default_factory=list)
    forms: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    tokens: list[int] = field(default_factory=list)


class _Writer:
    """Writes the answers to one request. Choices are numbered through all prompts."""

    def __init__(
        self,
        fields: CompletionFields,
        answers: Sequence[Answer],
        start: dict[str, Any],
        tokenizer: Tokenizer | None,
    ) -> None:
        self._fields, self._answers, self._start, self._tokenizer = fields, answers, start, tokenizer
        self._n = fields.n or 1
        self._names = TokenNames(tokenizer)
        self._hides_tokens = fields.max_tokens == 0
        self._choices = [_Choice(self._new_logprobs()) for _ in range(self._n * len(answers))]

    def _new_logprobs(self) -> CompletionLogprobs | None:
        num_top = self._fields.logprobs
        return None if num_top is None else CompletionLogprobs(self._names, num_top)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yields the events. Raises ApiError."""
        usage = StreamedUsage(self._fields, self._answers)
        async for place, delta in merged(self._answers):
            choice = self._part(place, delta)
            if choice is not None:
                yield usage.chunk({**self._start, "choices": [choice]})
        yield usage.last(self._start, self._num_hidden())

    async def whole(self) -> dict[str, Any]:
        """Returns the body. Raises ApiError."""
        async for place, delta in merged(self._answers):
            part = self._part(place, delta)
            if part is not None:
                self._keep(part)
        choices = [self._joined(index, choice) for index, choice in enumerate(self._choices)]
        return {
            **self._start,
            "choices": choices,
            "usage": usage_of(self._answers, self._num_hidden()),
        }

    def _num_hidden(self) -> int:
        return sum(choice.num_tokens for choice in self._choices) if self._hides_tokens else 0

    def _part(self, place: int, delta: Delta) -> dict[str, Any] | None:
        """Returns a choice with what is new; None where nothing is that a client could see."""
        index = place * self._n + delta.index
        choice, answer = self._choices[index], self._answers[place]
        text = "" if self._hides_tokens else "".join(getattr(piece, "text", "") for piece in delta.pieces)
        tokens = () if self._hides_tokens else delta.tokens
        picked: Sequence[Any] = () if self._hides_tokens else delta.logprobs
        if not choice.has_begun and self._fields.echo:
            text = self._prompt_text(answer) + text
            if choice.logprobs is not None:
                tokens = (*answer.prompt, *tokens)
                picked = (*answer.prompt_logprobs, *picked)
                if delta.finish_reason == "stop" and not delta.tokens:
                    picked, tokens = (*picked, None), (*tokens, self._end_token())
        choice.has_begun = True
        choice.num_tokens += len(delta.tokens)
        reason, stop_reason = delta.finish_reason, delta.stop_reason
        if self._hides_tokens and reason is not None:
            reason, stop_reason = "length", None
        has_news = text or reason is not None or choice.logprobs is not None or self._fields.return_token_ids
        if not has_news:
            return None
        part: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": None if choice.logprobs is None else choice.logprobs.add(picked, tokens),
            "finish_reason": reason,
            "stop_reason": stop_reason,
        }
        if self._fields.return_token_ids:
            part["token_ids"] = list(delta.tokens)
        return part

    def _prompt_text(self, answer: Answer) -> str:
        if answer.prompt_text is not None:
            return answer.prompt_text
        if self._tokenizer is None:
            return ""
        return decode(self._tokenizer, answer.prompt)

    def _end_token(self) -> int:
        """The token that the model picked to end its text at once: it has no text, but an entry."""
        ends = () if self._tokenizer is None else sorted(self._tokenizer.eos_token_ids)
        return ends[0] if ends else -1

    def _keep(self, part: dict[str, Any]) -> None:
        choice = self._choices[part["index"]]
        choice.texts.append(part["text"])
        if part["logprobs"] is not None:
            choice.forms.append(part["logprobs"])
        choice.tokens += part.get("token_ids", ())
        choice.finish_reason, choice.stop_reason = part["finish_reason"], part["stop_reason"]

    def _joined(self, index: int, choice: _Choice) -> dict[str, Any]:
        logprobs = None
        if choice.logprobs is not None:
            names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
            logprobs = {name: [each for form in choice.forms for each in form[name]] for name in names}
        found: dict[str, Any] = {
            "index": index,
            "text": "".join(choice.texts),
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self._fields.return_token_ids:
            found["token_ids"] = choice.tokens
        return found
