"""The check that every prompt passes before it is computed, on each way in."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.serving.request import Reading, RequestError


def check_prompt(
    tokens: Sequence[int], spec: ModelSpec, context_length: int, *, continues: bool = True
) -> None:
    """Raises RequestError for token ids that can't be run. continues: one more token needs room."""
    if not tokens:
        raise RequestError("the prompt is empty: there is nothing to continue")
    room = context_length - int(continues)
    if len(tokens) > room:
        is_largest = context_length >= spec.context_length
        raise RequestError(
            f"the prompt has {len(tokens)} tokens, and the context of {context_length} has room for {room}:"
            f" {len(tokens) - room} too many; shorten it"
            f"{'' if is_largest else ', or give more context with --context'}"
            f" (the model was trained for {spec.context_length})"
        )
    size = spec.vocabulary_size
    if not 0 <= min(tokens) <= max(tokens) < size:
        wrong = next(token for token in tokens if not 0 <= token < size)
        raise RequestError(f"the prompt has the token {wrong}; this model has 0 to {size - 1}")


def check_reading(reading: Reading, num_tokens: int, spec: ModelSpec) -> None:
    """Raises RequestError for a position that such a prompt does not have, and for a token that is none."""
    if not 0 <= reading.start < num_tokens:
        raise RequestError(f"position {reading.start} can't be read: the prompt has {num_tokens} tokens")
    if reading.following is not None and not 0 <= reading.following < spec.vocabulary_size:
        raise RequestError(
            f"token {reading.following} can't follow: this model has 0 to {spec.vocabulary_size - 1}"
        )
