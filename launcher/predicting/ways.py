"""The ways to run a model on hosts: one device, tensor-parallel, in stages, or both. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import MAX_GROUP


@dataclass(frozen=True)
class Way:
    """Some ranks of a cluster, by their numbers there, and how they stand to each other."""

    name: str
    ranks: tuple[int, ...]
    placement: Placement

    @property
    def group_size(self) -> int:
        return len(self.ranks) // self.placement.num_stages

    def group(self, stage: int) -> tuple[int, ...]:
        """Returns the ranks of a stage, by their numbers in the cluster."""
        return tuple(self.ranks[rank] for rank in self.placement.ranks_of_stage(stage))


def ways(hosts: Sequence[int], pipeline: int | None = None) -> list[Way]:
    """Returns those that the ranks allow; of a pipeline with so many stages only, where one is given.

    hosts: by rank. Every stage has as many ranks. All take part, but for the ways that stay on the head: one
    device, and its own devices together.
    """
    alone = [rank for rank, host in enumerate(hosts) if host == 0]
    found = [_way("1 device", hosts, [0], 1)]
    if 1 < len(alone) < len(hosts) and len(alone) <= MAX_GROUP:
        found.append(_way(f"1 host, {_words(1, len(alone))}", hosts, alone, 1))
    everyone = range(len(hosts))
    for num_stages in range(1, len(hosts) + 1):
        size, rest = divmod(len(hosts), num_stages)
        if rest or len(hosts) == 1 or size > MAX_GROUP or pipeline not in (None, num_stages):
            continue
        found.append(_way(_words(num_stages, size), hosts, everyone, num_stages))
    return found


def _way(name: str, hosts: Sequence[int], ranks: Sequence[int], num_stages: int) -> Way:
    size = len(ranks) // num_stages
    stages = tuple(place // size for place in range(len(ranks)))
    return Way(name, tuple(ranks), Placement(tuple(hosts[rank] for rank in ranks), stages))


def _words(num_stages: int, size: int) -> str:
    if num_stages == 1:
        return f"tensor {size}"
    return f"pipeline {num_stages}" + (f" x tensor {size}" if size > 1 else "")
