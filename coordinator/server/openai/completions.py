"""/v1/completions: continues prompts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import Request
from starlette.responses import Response

from tplaunch.coordinator.server.answer import Answer, Delta
from tplaunch.coordinator.server.bodies import read_body
from tplaunch.coordinator.server.errors import ApiError
from tplaunch.coordinator.server.openai.begins import num_ours, text_of, with_begin
from tplaunch.coordinator.server.openai.fields import CompletionFields
from tplaunch.coordinator.server.openai.form import grammar_wish
from tplaunch.coordinator.server.openai.logprobs import FORM, CompletionLogprobs
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
from tplaunch.coordinator.server.service import Service
from tplaunch.coordinator.server.settings import ClientLimits
from tplaunch.coordinator.server.sse import EventStream, LongResponse, dumped_by_parts, unless_left
from tplaunch.coordinator.server.state import begins_tokens, check_model, limits_of, service_of
from tplaunch.coordinator.server.wanted import TextRequest
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.answers.pieces import Content

DEFAULT_TOKENS = 16  # OpenAI's
KIND = "text_completion"


async def complete(request: Request) -> Response:
    """Answers a request to /v1/completions. Raises ApiError."""
    fields = await read_body(request, CompletionFields)
    check_model(request, fields.model)
    limits, service = limits_of(request), service_of(request)
    tokenizer, to_tokens = service.opened.tokenizer, begins_tokens(request)
    add_special, form = fields.add_special_tokens is not False, grammar_wish(fields)
    prompts = [
        with_begin(one, tokenizer, to_tokens=to_tokens, to_texts=add_special)
        for one in _prompts(fields, limits)
    ]
    params = _params(fields, limits)
    total = sum(len(prompt) for prompt in prompts if isinstance(prompt, str))
    texts = [
        TextRequest(
            prompt,
            params,
            add_special=add_special,
            grammar=form,
            beside=total - len(prompt) if isinstance(prompt, str) else 0,
        )
        for prompt in prompts
    ]
    answers = await all_begun([service.text(text) for text in texts])
    writer = _Writer(fields, answers, head("cmpl", KIND, service.name), service)
    if fields.stream:
        return EventStream(writer.stream(), close_all(answers), error_event)
    done = await unless_left(request, close_all(answers), writer.whole())
    return done if isinstance(done, Response) else LongResponse(done)


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
    if len(several) * (fields.n or 1) > limits.texts:
        raise ApiError(
            400,
            f"{len(several)} prompts with n {fields.n} are more than the {limits.texts} texts of a request",
            parameter="n",
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


class _Choice:
    """One text as far as it has come."""

    def __init__(self, index: int, logprobs: CompletionLogprobs | None) -> None:
        self.index, self.logprobs = index, logprobs
        self.has_begun = False
        self.num_tokens = 0
        self._parts: list[dict[str, Any]] = []

    def keep(self, part: dict[str, Any]) -> None:
        """Keeps what is new until all is there."""
        self._parts.append(part)

    def joined(self) -> dict[str, Any]:
        """Returns all that was kept, as one."""
        whole = {**self._parts[0], **self._parts[-1]}
        whole["text"] = "".join(part["text"] for part in self._parts)
        if self.logprobs is not None:
            forms = [part["logprobs"] for part in self._parts]
            whole["logprobs"] = {name: [each for form in forms for each in form[name]] for name in FORM}
        if "token_ids" in whole:
            whole["token_ids"] = [token for part in self._parts for token in part["token_ids"]]
        return whole


class _Writer:
    """Writes the answers to one request. Choices are numbered through all prompts."""

    def __init__(
        self,
        fields: CompletionFields,
        answers: Sequence[Answer],
        start: dict[str, Any],
        service: Service,
    ) -> None:
        self._fields, self._answers, self._start, self._service = fields, answers, start, service
        self._tokenizer = service.opened.tokenizer
        self._n = fields.n or 1
        self._hides_tokens = fields.max_tokens == 0  # one is computed, as steps do
        self._choices = [_Choice(index, self._new_logprobs()) for index in range(self._n * len(answers))]

    def _new_logprobs(self) -> CompletionLogprobs | None:
        if self._fields.logprobs is None:
            return None
        shows_control = self._fields.skip_special_tokens is False
        return CompletionLogprobs(self._tokenizer, self._fields.logprobs, shows_control=shows_control)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yields the events. Raises ApiError."""
        usage = StreamedUsage(self._fields, self._answers)
        async for place, delta in merged(self._answers):
            written = partial(self._event, usage, place, delta)
            chunk = await self._service.written(written, self._num_entries(place, delta))
            if chunk is not None:
                yield chunk
        yield usage.last(self._start, self._num_hidden())

    def _event(self, usage: StreamedUsage, place: int, delta: Delta) -> bytes | None:
        part = self._part(place, delta)
        return None if part is None else usage.chunk({**self._start, "choices": [part]}, dumped_by_parts)

    async def whole(self) -> bytes:
        """Returns the body. Raises ApiError."""
        news, num_entries = [], 0
        async for place, delta in merged(self._answers):
            news.append((place, delta))
            num_entries += self._num_entries(place, delta)
        return await self._service.written(lambda: self._body(news), num_entries)

    def _body(self, news: Sequence[tuple[int, Delta]]) -> bytes:
        for place, delta in news:
            part = self._part(place, delta)
            if part is not None:
                self._choices[part["index"]].keep(part)
        choices = [choice.joined() for choice in self._choices]
        usage = usage_of(self._answers, self._num_hidden())
        return dumped_by_parts({**self._start, "choices": choices, "usage": usage})

    def _num_entries(self, place: int, delta: Delta) -> int:
        """Returns how much there is to write, in log probabilities or about as much else."""
        is_echoed = self._fields.echo and not self._choices[place * self._n + delta.index].has_begun
        num_tokens = len(delta.tokens) + (len(self._answers[place].prompt) if is_echoed else 0)
        return 1 + num_tokens * (1 + (self._fields.logprobs or 0))

    def _num_hidden(self) -> int:
        return sum(choice.num_tokens for choice in self._choices) if self._hides_tokens else 0

    def _part(self, place: int, delta: Delta) -> dict[str, Any] | None:
        """Returns a choice with what is new; None where nothing is that a client could see."""
        choice, answer = self._choices[place * self._n + delta.index], self._answers[place]
        is_first, choice.has_begun = not choice.has_begun, True
        choice.num_tokens += len(delta.tokens)
        seen, text, reason, stop_reason = delta, _text(delta), delta.finish_reason, delta.stop_reason
        if self._hides_tokens:
            seen, text = replace(delta, tokens=(), logprobs=()), ""
            reason, stop_reason = reason and "length", None
        if is_first and self._fields.echo:
            text = text_of(answer, self._tokenizer) + text
        logprobs = (
            None if choice.logprobs is None else self._logprobs(choice.logprobs, answer, seen, is_first)
        )
        has_ids = bool(self._fields.return_token_ids)
        if not (text or reason or logprobs or (has_ids and seen.tokens)):
            return None
        part: dict[str, Any] = {
            "index": choice.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason,
            "stop_reason": stop_reason,
        }
        if has_ids:
            part["token_ids"] = list(seen.tokens)
            if is_first:
                part["prompt_token_ids"] = list(answer.prompt)
        return part

    def _logprobs(
        self, logprobs: CompletionLogprobs, answer: Answer, delta: Delta, is_first: bool
    ) -> dict[str, list[Any]]:
        if not (is_first and self._fields.echo):
            return logprobs.add(delta.logprobs, delta.tokens)
        start = num_ours(answer, self._tokenizer, to_texts=self._fields.add_special_tokens is not False)
        prompt = logprobs.add_prompt(answer.prompt_logprobs[start:], answer.prompt[start:])
        # Programs that score a prompt leave the last entry out, also where the model ended its text at once.
        has_ended = delta.finish_reason == "stop" and not delta.tokens
        added = logprobs.add_end() if has_ended else logprobs.add(delta.logprobs, delta.tokens)
        return {name: prompt[name] + added[name] for name in FORM}


def _text(delta: Delta) -> str:
    return "".join(piece.text for piece in delta.pieces if isinstance(piece, Content))
