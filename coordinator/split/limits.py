"""The sizes that a run allocates for, the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.coordinator.split.plan import PlanError

AUTO = "auto"  # each rank chooses f16 or f32 for rows of prompts, as it measures; f32 for all others
ACTIVATIONS = (AUTO, "f32", "f16", "q8")


@dataclass(frozen=True)
class Limits:
    """The sizes that every rank allocates for."""

    context_length: int  # positions of one sequence
    num_blocks: (
        int  # of the paged KV cache, over all sequences; 0 where every layer with attention has a window
    )
    block_length: int = 32  # positions in one block
    max_rows: int = 256  # of one step: decode rows and prefill rows together
    max_logit_rows: int = 32  # rows of one step that get logits
    kv_type: str = "f16"
    activations: str = "f32"  # what products multiply weights by
    num_slots: int = 0  # recurrent states that have a place; 0 for a model that has none
    max_sequences: int = 1  # seats: sequences that have a block table at once
    num_window_blocks: int = 0  # of the paged KV cache of layers with a window; 0 where none has

    def __post_init__(self) -> None:
        for name in ("context_length", "block_length", "max_rows", "max_logit_rows", "max_sequences"):
            if not 0 < getattr(self, name) < 2**31:
                raise PlanError(f"{name} is {getattr(self, name)}; it must be positive")
        for name in ("num_blocks", "num_window_blocks", "num_slots"):
            if not 0 <= getattr(self, name) < 2**31:
                raise PlanError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.max_sequences * self.blocks_per_seat >= 2**31:
            raise PlanError(
                f"{self.max_sequences} sequences of {self.blocks_per_seat} blocks each are too many"
            )
        if self.kv_type not in KV_TYPES:
            raise PlanError(f"the KV type {self.kv_type!r} is unknown; known: {', '.join(KV_TYPES)}")
        if self.activations not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise PlanError(f"the activations {self.activations!r} are unknown; known: {known}")

    @property
    def may_be_activations(self) -> str:
        """The activations that buffers have to hold, where it is not chosen yet what they will be."""
        return "f16" if self.activations == AUTO else self.activations

    @property
    def generated_activations(self) -> str:
        """The activations of rows that are generated, which are never the matter of a choice."""
        return "f32" if self.activations == AUTO else self.activations

    @property
    def blocks_per_seat(self) -> int:
        """Entries of one sequence's block table."""
        return -(-self.context_length // self.block_length)

    @property
    def max_decode_rows(self) -> int:
        """Sequences that can decode in one step: each row has logits."""
        return min(self.max_rows, self.max_logit_rows)

    def pool(self, windowed: bool) -> int:
        """Blocks of the layers with a window, or of those without."""
        return self.num_window_blocks if windowed else self.num_blocks
