"""What the Python API gives back, in the shapes that vLLM's has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tplaunch.coordinator.serving.request import Output, Request
from tplaunch.coordinator.serving.sampling.picked import Picked
from tplaunch.coordinator.text.tokenizer import Tokenizer

# Our reasons in the words of the field; a reason that is not here stays as it is.
REASONS = {"context": "length", "cancelled": "abort"}


@dataclass(frozen=True)
class Logprob:
    """The log probability of a token, by the model's own distribution."""

    logprob: float
    rank: int | None  # 1 is the likeliest; None for a token that is not among the likeliest asked for
    decoded_token: str | None


@dataclass(frozen=True)
class CompletionOutput:
    """One text that continues a prompt."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    cumulative_logprob: float | None  # the sum of the tokens' own, where log probabilities were asked for
    logprobs: tuple[Mapping[int, Logprob], ...] | None  # by token id, for each token
    finish_reason: str | None  # stop, length, abort or error; None while more is to come
    stop_reason: int | str | None = None  # the stop token or the stop text that ended it

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(frozen=True)
class RequestOutput:
    """A prompt with the texts that continue it."""

    request_id: str
    prompt: str | None  # None where it was given as token ids
    prompt_token_ids: tuple[int, ...]
    prompt_logprobs: tuple[Mapping[int, Logprob] | None, ...] | None
    outputs: tuple[CompletionOutput, ...]
    finished: bool
    num_cached_tokens: int  # of the prompt, that were not computed again


@dataclass(frozen=True)
class Score:
    """How likely a text is behind another one."""

    logprob: float  # the sum over its tokens
    token_logprobs: tuple[float, ...]
    is_greedy: bool  # each token was the likeliest


def request_output(request: Request, prompt: str | None, tokenizer: Tokenizer | None) -> RequestOutput:
    """What has come of a request so far."""
    params = request.params
    has_prompt = params.prompt_logprobs is not None and len(request.prompt_logprobs) == len(request.prompt)
    return RequestOutput(
        request.id,
        prompt,
        request.prompt,
        tuple(_logprobs(one, tokenizer) for one in request.prompt_logprobs) if has_prompt else None,
        tuple(_completion(one, params.logprobs is not None, tokenizer) for one in request.outputs),
        request.is_finished,
        request.times.cached_tokens,
    )


def _completion(output: Output, has_logprobs: bool, tokenizer: Tokenizer | None) -> CompletionOutput:
    reason = output.finish_reason
    return CompletionOutput(
        output.index,
        output.text,
        tuple(output.token_ids),
        sum(one.logprob or 0.0 for one in output.logprobs) if has_logprobs else None,
        tuple(_logprobs(one, tokenizer) or {} for one in output.logprobs) if has_logprobs else None,
        None if reason is None else REASONS.get(reason, reason),
        output.stop_reason,
    )


def _logprobs(picked: Picked | None, tokenizer: Tokenizer | None) -> Mapping[int, Logprob] | None:
    if picked is None or picked.logprob is None:
        return None
    found = {
        token: Logprob(logprob, rank, _text(token, tokenizer))
        for rank, (token, logprob) in enumerate(picked.top, 1)
    }
    if picked.token not in found:
        found[picked.token] = Logprob(picked.logprob, None, _text(picked.token, tokenizer))
    return found


def _text(token: int, tokenizer: Tokenizer | None) -> str | None:
    return None if tokenizer is None else tokenizer.token_bytes(token).decode("utf-8", "replace")
