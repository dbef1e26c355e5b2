"""Log-likelihoods of texts behind others: how they become tokens, and what is read of the prompt's logits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.serving.request import Reading, Request, RequestError
from tplaunch.coordinator.serving.sampling.parameters import SamplingParams
from tplaunch.coordinator.text.tokenizer import Tokenizer

# Nothing is generated: what is read are the log probabilities of the prompt's own tokens, and the likeliest.
SCORING = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, detokenize=False, ignore_eos=True)


@dataclass(frozen=True)
class Score:
    """The likelihood of a text behind another one."""

    logprob: float  # the sum over its tokens
    is_greedy: bool  # each token was the likeliest
    token_ids: list[int]
    token_logprobs: list[float]


def encode_pair(tokenizer: Tokenizer, before: str, behind: str) -> tuple[list[int], list[int]]:
    """Returns the token ids of a text and of what follows it.

    Both are tokenized as one text, and parted behind as many tokens as the first has by itself: as
    lm-evaluation-harness does (lm_eval/api/model.py, _encode_pair). Raises TokenizerError, and RequestError
    where nothing begins a text.
    """
    text = before.rstrip()
    before_ids, whole = tokenizer.encode(text), tokenizer.encode(before + behind)
    if not text and not before_ids:
        before_ids = [begin_token(tokenizer)]
        whole = before_ids + whole
    num_before = len(before_ids)
    if len(whole) <= num_before:  # the texts share their last token: it belongs to the continuation
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before_ids, whole, strict=False))
        num_before = len(list(same)) if behind else num_before
    return whole[:num_before], whole[num_before:]


def begin_token(tokenizer: Tokenizer) -> int:
    """Returns the token that stands before a text: the begin token, else the end of another text."""
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if token is None:
        raise RequestError("the context is empty, and the vocabulary has no token that begins a text")
    return token


def scored(context: Sequence[int], continuation: Sequence[int]) -> tuple[list[int], Reading]:
    """Returns the prompt and what is read of it to score a continuation; both have tokens.

    The continuation's last token is not computed, as nothing follows it: a text may be a token longer than
    the context.
    """
    *prompt, last = [*context, *continuation]
    return prompt, Reading(len(context) - 1, last)


def score_of(request: Request) -> Score:
    """Returns the score of a request that was read as `scored` says; it has ended."""
    picked = [one for one in request.prompt_logprobs if one is not None]
    logprobs = [one.logprob or 0.0 for one in picked]
    is_greedy = all(one.top[0][0] == one.token for one in picked)
    return Score(sum(logprobs), is_greedy, [one.token for one in picked], logprobs)
