"""The sizes that a run allocates for, the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.plan import PlanError

ACTIVATIONS = ("f32", "f16", "q8")


@dataclass(frozen=True)
class Limits:
    """The sizes that every rank allocates for."""

    context_length: int  # positions of one sequence
    num_blocks: int  # of the paged KV cache, over all sequences
    block_length: int = 32  # positions in one block
    max_rows: int = 256  # of one step: decode rows and prefill rows together
    max_logit_rows: int = 32  # rows of one step that get logits
    kv_type: str = "f16"
    activations: str = "f32"  # what products multiply weights by
    num_slots: int = 0  # places of a sequence's recurrent state; 0 for a model that has none
    max_sequences: int = 1  # that are computed at once: the rows of the block tables
    num_window_blocks: int = 0  # of the cache of layers with windows; 0 where there are none

    def __post_init__(self) -> None:
        for name in ("context_length", "block_length", "max_rows", "max_logit_rows", "max_sequences"):
            if not 0 < getattr(self, name) < 2**31:
                raise PlanError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.num_slots < 2**31:
            raise PlanError(f"num_slots is {self.num_slots}; it must not be negative")
        if self.kv_type not in KV_TYPES:
            raise PlanError(f"the KV type {self.kv_type!r} is unknown; known: {', '.join(KV_TYPES)}")
        if self.activations not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise PlanError(f"the activations {self.activations!r} are unknown; known: {known}")
