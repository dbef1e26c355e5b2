"""Deals out the processor cores to the ranks of a host, those near a card to its rank."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace

from tplaunch.launcher.devices import DeviceChoice

PART_BESIDE_KERNELS = 8  # of its cores that a rank keeps beside ranks that compute on all cores, one at least


def usable_cores() -> list[int]:
    """Returns the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def rank_cores(choices: Sequence[DeviceChoice], cores: Sequence[int]) -> list[list[int]]:
    """The cores of each rank: disjoint while there are enough, shared in turn when there are not.

    cores: those that this process may use. Compiled kernels get all cores but a few for each other rank.
    """
    threaded = [rank for rank, choice in enumerate(choices) if choice.has_threads]
    others = [rank for rank, choice in enumerate(choices) if not choice.has_threads]
    found: list[list[int]] = [[] for _ in choices]
    for rank, share in zip(others, _deal([choices[rank] for rank in others], cores), strict=True):
        most = max(1, len(share) // PART_BESIDE_KERNELS) if threaded else len(share)
        found[rank] = share[:most]
    taken = {core for share in found for core in share}
    left = [core for core in cores if core not in taken]
    for rank, share in zip(threaded, _deal([choices[rank] for rank in threaded], left or cores), strict=True):
        found[rank] = share
    return found


def with_cores(choices: Sequence[DeviceChoice], cores: Sequence[int]) -> list[DeviceChoice]:
    """Names the cores that ranks of compiled kernels are to have beside the others: each alone has all."""
    return [
        replace(choice, own_cores=frozenset(share)) if choice.has_threads else choice
        for choice, share in zip(choices, rank_cores(choices, cores), strict=True)
    ]


def beside_cards(choices: Sequence[DeviceChoice], place: int, cores: Sequence[int]) -> DeviceChoice:
    """Names the cores that one rank has where no other one has compiled kernels: those would share them."""
    if not choices[place].has_threads:
        return choices[place]
    others = [choice for choice in choices if not choice.has_threads]
    return with_cores([*others, choices[place]], cores)[-1]


def _deal(choices: Sequence[DeviceChoice], cores: Sequence[int]) -> list[list[int]]:
    """Deals out cores to ranks that have equal need of them.

    Ranks whose cards have cores of these near them share those alone, as do ranks that were given cores;
    others take what is left, where there are some for each. A rank whose device is the CPU by a driver, or
    NumPy, runs on one of its cores, whichever is free (worker/core_choice.py): lavapipe then runs in the
    thread that submits (LP_NUM_THREADS=0), which makes a dispatch 90 times cheaper than waking its threads.
    """
    near = [
        tuple(core for core in cores if core in (choice.own_cores or choice.near_cores)) for choice in choices
    ]
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
