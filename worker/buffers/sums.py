"""The memory that partial sums take: the collective's arena, and what a device has beside that."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.collectives import arena_bytes, shares_arena
from tplaunch.collectives.arena import NUM_PARITIES
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import padded


def slot_bytes(spec: ModelSpec, limits: Limits) -> int:
    """Bytes of the largest all-reduce."""
    return limits.max_rows * padded(spec.embedding_length) * 4


def sums_bytes(
    spec: ModelSpec, limits: Limits, collective: str, index: int, hosts: Sequence[int], copied: bool
) -> int:
    """Bytes that one rank allocates: the arena, where it makes it for itself or its host, and its copy.

    index: among the ranks of its stage, whose hosts are given. copied: whether its device can't import the
    arena, and keeps a copy in memory that the host can map.
    """
    arena = arena_bytes(collective, index, hosts, slot_bytes(spec, limits))
    makes_arena = list(hosts).index(hosts[index]) == index or not shares_arena(collective)
    return arena * (makes_arena + copied)


def own_sums_bytes(spec: ModelSpec, limits: Limits, collective: str, index: int, hosts: Sequence[int]) -> int:
    """Bytes of the device's own memory for partial sums that move to the arena: of one parity of that."""
    return arena_bytes(collective, index, hosts, slot_bytes(spec, limits)) // NUM_PARITIES
