"""Says how the program of a step is to be built, beside what the model, the rank and the rows decide."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tplaunch.worker.buffers.stack_parts import WHOLE


@dataclass(frozen=True)
class ProgramOptions:
    """The first four may change the bits of rows, the others never do."""

    activations: str = "f32"  # that products multiply, where their weights allow it
    as_floats: Collection[str] = ()  # weight types whose products take float32 where activations would be q8
    attends_by_matrices: bool = False  # attention of rows of prompts takes float16, where heads allow it
    # All rows are of prompts. Those may be multiplied in an arithmetic of their own, which does not depend on
    # how many they are; what becomes logits never is.
    of_prompts: bool = False
    # How the all-reduces are made; the same bits come out either way. With host_sums the hosts add up among
    # themselves, so that devices read sums.
    two_phase: bool = False
    host_sums: bool = False
    # Rank 0 chooses all ranks' experts, for which every layer that has some costs another, small all-reduce.
    shares_routing: bool = False
    # No row has so many keys that attention puts several parts of them together (worker/buffers/cuts.py), so
    # that it needs no second operation.
    in_one_part: bool = False
    groups_logits: bool = False  # the device looks through its logits for the host
    max_buffer: int = WHOLE  # bytes; larger matrices are in several buffers
