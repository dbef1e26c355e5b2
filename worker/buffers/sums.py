"""The memory of the host that partial sums take: the collective's arena, and a device's copy of it."""

from __future__ import annotations

from tplaunch.collectives import arena_bytes, shares_arena
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import padded


def slot_bytes(spec: ModelSpec, limits: Limits) -> int:
    """Bytes of the largest all-reduce."""
    return limits.max_rows * padded(spec.embedding_length) * 4


def sums_bytes(
    spec: ModelSpec,
    limits: Limits,
    collective: str,
    index: int,
    num_ranks: int,
    copied: bool,
    num_hosts: int = 1,
) -> int:
    """Bytes that one rank allocates: the arena, where it is its own or it makes it for all, and its copy.

    index, num_ranks: its place among the ranks of its host that all-reduce together, and their number.
    copied: whether its device can't import the arena, and keeps a copy in memory that the host can map.
    num_hosts: those with such ranks.
    """
    if shares_arena(collective):
        arena = arena_bytes(collective, num_ranks, slot_bytes(spec, limits), num_hosts)
    else:
        arena = arena_bytes(collective, num_ranks * num_hosts, slot_bytes(spec, limits))
    makes_arena = index == 0 or not shares_arena(collective)
    return arena * (makes_arena + copied)
