"""Says what rows of prompts are multiplied as, where that was the ranks' own choice."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.coordinator.messages import Ready
from tplaunch.coordinator.split.limits import AUTO, Limits


def chosen_activations(limits: Limits, ready: Sequence[Ready]) -> str:
    """Returns what the run's rows of prompts are multiplied as; where ranks differ, each kind once."""
    has_choice = limits.activations in (AUTO, "q8")
    return "/".join(sorted({one.prompts for one in ready})) if has_choice else limits.activations


def rounding_sentence(limits: Limits, ready: Sequence[Ready], has_experts: bool = False) -> str | None:
    """Returns what the user should know of a choice that rounds; None where none was made, or none rounds.

    The errors are those that were measured (docs/performance.md), by kind of model and of cache.
    """
    ranks = [rank for rank, one in enumerate(ready) if one.prompts == "f16"]
    if limits.activations != AUTO or not ranks:
        return None
    where = (
        "" if len(ranks) == len(ready) else f" on rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
    )
    usual = "2e-5, as a q8_0 cache rounds anew," if limits.kv_type == "q8_0" else "1e-6 to 2e-6"
    experts = (
        ", and up to some 2e-4 behind a row that goes to another expert, where two are about as good for it"
        if has_experts
        else ""
    )
    return (
        f"prompts are multiplied by float16 matrices{where}, which measured faster: logits differ from"
        f" float32's by a normalised squared error of about {usual}{experts} (--activations f32 does without)"
    )
