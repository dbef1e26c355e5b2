"""Cuts a model's layers, and the ranks, into stages that compute one after another.

Pure arithmetic on counts and costs. Knows no device and no file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import PlanError, RankShare, Span, Stage


def cut_ranks(hosts: Sequence[int], num_stages: int) -> list[Span]:
    """The ranks of each stage: those of a host, where there are as many, else equal parts of all.

    hosts: by rank, ascending; the head's need not be there. Raises PlanError for fewer ranks than stages.
    """
    if not 1 <= num_stages <= len(hosts):
        raise PlanError(f"{num_stages} stages for {len(hosts)} ranks; each stage needs one at least")
    distinct = dict.fromkeys(hosts)
    if len(distinct) == num_stages:
        firsts = [hosts.index(host) for host in distinct]
    else:
        firsts = [len(hosts) * stage // num_stages for stage in range(num_stages)]
    return [Span(*edges) for edges in itertools.pairwise((*firsts, len(hosts)))]


def cut_layers(costs: Sequence[float], weights: Sequence[float]) -> list[Span]:
    """Cuts layers into one stage per weight, so that what each costs is in proportion, nearly.

    costs: of each layer, in any unit. Each stage has a layer at least. Raises PlanError for too few.
    """
    num_layers, num_stages = len(costs), len(weights)
    if num_layers < num_stages:
        raise PlanError(f"{num_stages} stages for {num_layers} layers; each stage needs one at least")
    sums = list(itertools.accumulate(costs, initial=0.0))
    total, cuts = math.fsum(weights), [0]
    if not total > 0:
        raise PlanError("all rank weights are 0; at least one must be more")
    for stage in range(1, num_stages):
        wanted = sums[-1] * math.fsum(weights[:stage]) / total
        possible = range(cuts[-1] + 1, num_layers - (num_stages - stage) + 1)
        cuts.append(min(possible, key=lambda cut: abs(sums[cut] - wanted)))
    return [Span(*edges) for edges in itertools.pairwise((*cuts, num_layers))]


def given_layers(counts: Sequence[int], num_layers: int) -> list[Span]:
    """The stages that have so many layers each. Raises PlanError where these are not the model's."""
    if any(count < 1 for count in counts) or sum(counts) != num_layers:
        parts = ", ".join(map(str, counts))
        raise PlanError(
            f"stages of {parts} layers, where the model has {num_layers}; each stage needs one at least, and"
            " they must add up to that"
        )
    edges = itertools.accumulate(counts, initial=0)
    return [Span(*pair) for pair in itertools.pairwise(edges)]


def make_stages(ranks: Sequence[Span], layers: Sequence[Span]) -> tuple[Stage, ...]:
    """Returns the stages that have these ranks and layers."""
    return tuple(Stage(*parts) for parts in zip(ranks, layers, strict=True))


def placed(plan: Sequence[RankShare], hosts: Sequence[int]) -> Placement:
    """Says where all ranks of a plan stand. hosts: by rank."""
    firsts = sorted({share.first_layer for share in plan})
    return Placement(tuple(hosts), tuple(firsts.index(share.first_layer) for share in plan))


def most_in_flight(num_stages: int) -> int:
    """Returns how many steps can be under way: one for each stage, and one for the first to go on with.

    That one it has while an answer is on its way.
    """
    return num_stages + (num_stages > 1)
