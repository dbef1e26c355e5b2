"""Arranges a model on devices: who holds what, and the sizes that all ranks allocate for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.plan import Limits, RankShare, make_plan
from launcher.auto_split import choose_weights
from launcher.config import RunConfig
from launcher.context_fit import Sizes, choose_sizes
from launcher.devices import DeviceChoice
from launcher.fit import RankBytes, check_fit, rank_needs
from launcher.memory_places import memory_places
from launcher.model import Model


@dataclass(frozen=True)
class Arrangement:
    """A model's plan for these devices. It fits, as far as is known of them."""

    choices: tuple[DeviceChoice, ...]  # by rank
    plan: tuple[RankShare, ...]
    sizes: Sizes
    bytes: tuple[RankBytes, ...]  # by rank
    split: str | None  # how the shares were found, where the user did not give them

    @property
    def limits(self) -> Limits:
        return self.sizes.limits


def arrange(config: RunConfig, model: Model, choices: Sequence[DeviceChoice]) -> Arrangement:
    """Raises UsageError or PlanError for a split that can't be, and for one that does not fit."""
    places = memory_places(choices, config.max_memory)
    weights, split = config.rank_weights(len(choices)), None
    if weights is None:
        weights, how = choose_weights(config, model, choices, places)
        split = f"shares {', '.join(f'{weight:.3g}' for weight in weights)}: {how}"
    plan = make_plan(model.spec, weights)
    needs = rank_needs(model.spec, model.tensors, plan, choices)
    sizes = choose_sizes(config, model.spec.context_length, needs, places, choices)
    check_fit(needs, sizes.limits, places)
    found = tuple(rank.bytes(sizes.limits) for rank in needs)
    return Arrangement(tuple(choices), plan, sizes, found, split)


def say_arrangement(config: RunConfig, model: Model, arrangement: Arrangement) -> None:
    """What was chosen for the user and may surprise, on standard error."""
    sizes, trained = arrangement.sizes, model.spec.context_length
    context = sizes.limits.context_length
    if config.verbose and arrangement.split is not None:
        print(f"tplaunch: {arrangement.split}", file=sys.stderr)
    if config.context_length is not None or context == trained or sizes.largest_context is None:
        return
    reason = f"; {sizes.largest_context} would fit (--context)"
    if context >= sizes.largest_context:
        reason = f": {sizes.limited_by} has no room for more"
    chosen = f"tplaunch: context {context} of the {trained} that the model was trained for"
    print(chosen + reason, file=sys.stderr)
