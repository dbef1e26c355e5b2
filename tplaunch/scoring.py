"""Log-likelihoods of texts behind others: how they become tokens, and what is read of the prompt's logits."""

from __future__ import annotations

import itertools
from typing import Any

from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.serving.request import Request, RequestError
from tplaunch.outputs import Score
from tplaunch.prompts import text_or_ids, tokens_of


def as_pair(opened: Opened, context: Any, continuation: Any) -> tuple[list[int], list[int]]:
    """Returns the token ids of a context and of what follows it, of which both have some.

    Two texts are tokenized as one, and parted behind as many tokens as the context has by itself: as
    lm-evaluation-harness does (lm_eval/api/model.py, _encode_pair). Raises RequestError or TokenizerError.
    """
    (before, before_ids), (behind, behind_ids) = text_or_ids(context), text_or_ids(continuation)
    if before_ids is None and behind_ids is None:
        before, behind = before or "", behind or ""
        text = before.rstrip()
        tokenizer = opened.needed_tokenizer()
        before_ids, whole = tokenizer.encode(text), tokenizer.encode(before + behind)
        if not text and not before_ids:
            before_ids = _begin(opened)
            whole = before_ids + whole
        num_before = len(before_ids)
        if len(whole) <= num_before:  # the texts share their last token: it belongs to the continuation
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before_ids, whole, strict=False))
            num_before = len(list(same)) if behind else num_before
        before_ids, behind_ids = whole[:num_before], whole[num_before:]
    elif before_ids is None:
        _, before_ids = tokens_of(opened, context)
    elif behind_ids is None:
        behind_ids = opened.needed_tokenizer().encode(behind or "", add_special=False)
    assert before_ids is not None and behind_ids is not None, "a side without tokens"
    if not before_ids:
        before_ids = _begin(opened)
    if not behind_ids:
        raise RequestError("the continuation is empty: there is nothing to score")
    return before_ids, behind_ids


def _begin(opened: Opened) -> list[int]:
    """Returns the token that stands before a text: the begin token, else the end of another text."""
    tokenizer = opened.needed_tokenizer()
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if token is None:
        raise RequestError("the context is empty, and the vocabulary has no token that begins a text")
    return [token]


def score_of(request: Request, num_context: int) -> Score:
    """Returns the score of a request's prompt behind its first tokens; it has their log probabilities."""
    picked = [one for one in request.prompt_logprobs[num_context:] if one is not None]
    logprobs = [one.logprob or 0.0 for one in picked]
    is_greedy = all(one.top[0][0] == one.token for one in picked)
    return Score(sum(logprobs), is_greedy, [one.token for one in picked], logprobs)
