"""Contexts and continuations of the Python API as token ids."""

from __future__ import annotations

from typing import Any

from tplaunch.coordinator.evaluation.scoring import begin_token, encode_pair
from tplaunch.coordinator.serving.opened import Opened
from tplaunch.coordinator.serving.request import RequestError
from tplaunch.prompts import text_or_ids, tokens_of


def as_pair(opened: Opened, context: Any, continuation: Any) -> tuple[list[int], list[int]]:
    """Returns the token ids of a context and of what follows it, of which both have some.

    Two texts are tokenized together. Raises RequestError or TokenizerError.
    """
    (before, before_ids), (behind, behind_ids) = text_or_ids(context), text_or_ids(continuation)
    if before_ids is None and behind_ids is None:
        before_ids, behind_ids = encode_pair(opened.needed_tokenizer(), before or "", behind or "")
    elif before_ids is None:
        _, before_ids = tokens_of(opened, context)
    elif behind_ids is None:
        behind_ids = opened.needed_tokenizer().encode(behind or "", add_special=False)
    assert before_ids is not None and behind_ids is not None, "a side without tokens"
    if not before_ids:
        before_ids = [begin_token(opened.needed_tokenizer())]
    if not behind_ids:
        raise RequestError("the continuation is empty: there is nothing to score")
    return before_ids, behind_ids
