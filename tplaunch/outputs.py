"""The results of the Python API, in the shapes of vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
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
    token_ids: list[int]
    cumulative_logprob: float | None  # the sum of the tokens' own, where log probabilities were asked for
    logprobs: list[dict[int, Logprob]] | None  # by token id, for each token
    finish_reason: str | None  # stop, length, abort or error; None while more is to come
    stop_reason: int | str | None = None  # of those asked for, the token or text that ended it

    def finished(self) -> bool:
        """Tells whether nothing more comes."""
        return self.finish_reason is not None


@dataclass(frozen=True)
class RequestOutput:
    """A prompt with the texts that continue it."""

    request_id: str
    prompt: str | None  # None where it was given as token ids
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None  # for each token; the first has none
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int  # of the prompt, that were not computed again


class GenerationError(RuntimeError):
    """A request failed while it was computed. `outputs` has what came of it and of those beside it."""

    def __init__(self, message: str, outputs: Sequence[RequestOutput] = ()) -> None:
        super().__init__(message)
        self.outputs = list(outputs)


def request_output(
    request: Request, heard: Sequence[Output], prompt: str | None, tokenizer: Tokenizer | None
) -> RequestOutput:
    """Makes the output of a request. heard: its texts, as far as who asks has heard of them."""
    params = request.params
    prompt_logprobs = None
    if params.prompt_logprobs is not None:
        prompt_logprobs = [_logprobs(one, tokenizer) for one in request.prompt_logprobs]
    return RequestOutput(
        request.id,
        prompt,
        list(request.prompt),
        prompt_logprobs,
        [_completion(one, params.logprobs is not None, tokenizer) for one in heard],
        all(one.finish_reason is not None for one in heard),
        request.times.cached_tokens,
    )


def _completion(output: Output, has_logprobs: bool, tokenizer: Tokenizer | None) -> CompletionOutput:
    reason = output.finish_reason
    return CompletionOutput(
        output.index,
        output.text,
        list(output.token_ids),
        sum(one.logprob or 0.0 for one in output.logprobs) if has_logprobs else None,
        [_logprobs(one, tokenizer) or {} for one in output.logprobs] if has_logprobs else None,
        None if reason is None else REASONS.get(reason, reason),
        output.stop_reason,
    )


def _logprobs(picked: Picked | None, tokenizer: Tokenizer | None) -> dict[int, Logprob] | None:
    if picked is None or picked.logprob is None:
        return None
    # The token itself comes first, as in vLLM: programs take the first one.
    found = {picked.token: Logprob(picked.logprob, None, _text(picked.token, tokenizer))}
    for rank, (token, logprob) in enumerate(picked.top, 1):
        found[token] = Logprob(logprob, rank, _text(token, tokenizer))
    return found


def _text(token: int, tokenizer: Tokenizer | None) -> str | None:
    if tokenizer is None or token >= tokenizer.vocabulary_size:  # a row of the embeddings without a text
        return None
    return tokenizer.token_bytes(token).decode("utf-8", "replace")
