"""Deals out the processor cores to the ranks of a host, those near a card to its rank."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from tplaunch.launcher.devices import DeviceChoice


def usable_cores() -> list[int]:
    """Returns the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def rank_cores(choices: Sequence[DeviceChoice], cores: Sequence[int]) -> list[list[int]]:
    """The cores of each rank: disjoint while there are enough, shared in turn when there are not.

    cores: those that this process may use. Ranks whose cards have cores of these near them share those alone;
    ranks without a card take the others, where there are some for each. A rank whose device is the CPU itself
    runs on one of its cores, whichever is free (worker/core_choice.py): lavapipe then runs in the thread that
    submits (LP_NUM_THREADS=0), which makes a dispatch 90 times cheaper than waking its thread pool.
    """
    near = [tuple(core for core in cores if core in choice.near_cores) for choice in choices]
    others = tuple(core for core in cores if not any(core in held for held in near))
    pools = [held or (others if len(others) >= near.count(()) else tuple(cores)) for held in near]
    found: list[list[int]] = [[] for _ in choices]
    for pool in dict.fromkeys(pools):
        ranks = [rank for rank, own in enumerate(pools) if own == pool]
        for rank, share in zip(ranks, _cut(pool, len(ranks)), strict=True):
            found[rank] = share
    return found


def _cut(cores: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Cuts cores into parts that are about equal."""
    if len(cores) < num_ranks:
        return [[cores[rank % len(cores)]] for rank in range(num_ranks)]
    cuts = [len(cores) * rank // num_ranks for rank in range(num_ranks + 1)]
    return [list(cores[start:stop]) for start, stop in itertools.pairwise(cuts)]
