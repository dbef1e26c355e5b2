"""A picked token with the log probabilities that were asked for: those of the model, before any change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tplaunch.coordinator.serving.sampling.evidence import RowEvidence, Wants
from tplaunch.coordinator.serving.sampling.pool import NeedsRow


@dataclass(frozen=True)
class Picked:
    """A token. Where log probabilities are asked for: its own, and the likeliest tokens with theirs.

    They are of the model's own distribution, before any change or stage.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def prompt_wants(token: int, num_top: int, vocabulary_size: int) -> Wants:
    """Returns what a row of the prompt shall tell where log probabilities of its next token are asked for."""
    return Wants(min(max(1, num_top), vocabulary_size), True, np.array([token], np.int32))


def describe(evidence: RowEvidence, token: int, num_top: int) -> Picked:
    """A token of the text with log probabilities: its own, and those of the num_top likeliest tokens.

    Raises NeedsRow where they are not known.
    """
    logit = evidence.logit(token)
    if logit is None or not evidence.sound or math.isnan(evidence.log_sum):
        raise NeedsRow
    if num_top > evidence.ids.size and not evidence.complete:
        raise NeedsRow
    return described(token, logit, evidence.log_sum, evidence, num_top)


def described(token: int, logit: float, log_sum: float, evidence: RowEvidence, num_top: int) -> Picked:
    """The same, of a known logit and log-sum-exp of the row."""
    top = zip(evidence.ids[:num_top].tolist(), evidence.logits[:num_top].tolist())
    return Picked(token, logit - log_sum, tuple((other, value - log_sum) for other, value in top))
