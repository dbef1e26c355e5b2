"""Counts what requests have cost since the model was loaded. The thread that runs steps alone writes here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counts:
    """Numbers that only grow; any thread may read them."""

    num_steps: int = 0
    step_seconds: float = 0.0
    num_prompt_tokens: int = 0  # that were computed, again after a preemption
    num_generated_tokens: int = 0
    num_preemptions: int = 0
    cache_tokens_queried: int = 0  # of texts that looked into the prefix cache
    cache_tokens_hit: int = 0  # of them, that were found
