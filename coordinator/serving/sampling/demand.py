"""The part of a row that a request needs follows from its parameters: the first stage that cuts decides."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.serving.sampling.parameters import SamplingParams

FIRST_GUESS = 64  # candidates, where no top-k says how many are enough
MAX_CANDIDATES = 1024  # of a row: where more are needed the whole row is asked for
MAX_ASKED = 1024  # tokens of a row whose logits are asked for
# The same where no others are allowed: some vocabularies have all numbers of three digits, or many thousand
# tokens of one character.
MAX_ALLOWED_ASKED = 8192
# Candidates to spare, at most; where more are pushed back than these the row is fetched.
SPARE_FOR_BANS = 8  # for banned and biased tokens: most of them, such as padding, are unlikely anyway
SPARE_CANDIDATES = 64  # for tokens of the text, which are likely, and for masks


@dataclass(frozen=True)
class Demand:
    """Candidates that the stages need, the sum, or the whole row. num_candidates 0 stands for a guess."""

    num_candidates: int = 0
    log_sum: bool = False
    whole_row: bool = False


def active_stages(params: SamplingParams) -> tuple[str, ...]:
    """The stages that do something, in order. Of a greedy request only those that change logits."""
    is_active = {
        "penalties": params.repeat_last_n != 0
        and (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1, 0, 0),
        "dry": params.dry_multiplier > 0 and params.dry_penalty_last_n != 0,
        "top_n_sigma": params.top_n_sigma > 0,
        "top_k": params.top_k > 0,
        "typical_p": params.typical_p < 1,
        "top_p": params.top_p < 1,
        "min_p": params.min_p > 0,
        "xtc": params.xtc_probability > 0,
        "temperature": params.temperature != 1,
    }
    active = tuple(stage for stage in params.samplers if is_active[stage])
    return tuple(stage for stage in active if stage in CHANGES) if params.is_greedy else active


CHANGES = ("penalties", "dry")


def demand(params: SamplingParams, stages: tuple[str, ...]) -> Demand:
    """Walks along the stages to the first that makes the pool complete."""
    if params.is_greedy:
        return Demand(num_candidates=1)
    scaled = log_sum = False
    for stage in stages:
        if stage == "top_k":
            return Demand(params.top_k, log_sum, whole_row=params.top_k > MAX_CANDIDATES)
        if stage == "min_p":
            return Demand(log_sum=log_sum)
        if stage in ("typical_p", "top_n_sigma", "xtc") or (stage == "top_p" and scaled):
            return Demand(whole_row=True)
        scaled |= stage == "temperature"
        log_sum |= stage == "top_p"
    return Demand(whole_row=True) if scaled else Demand(log_sum=True)
