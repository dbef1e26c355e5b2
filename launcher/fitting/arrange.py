"""Arranges a model on devices: who holds what, and the sizes that all ranks allocate for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.plan import RankShare, make_plan
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.auto_split import choose_weights
from tplaunch.launcher.fitting.context_fit import Fitting, Sizes
from tplaunch.launcher.fitting.fit import RankBytes, check_fit, rank_needs
from tplaunch.launcher.fitting.memory_places import memory_places
from tplaunch.launcher.model import Model


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
    plan = make_plan(model.spec, weights, config.expert_split)
    needs = rank_needs(
        model.spec, model.tensors, plan, choices, collective=config.collective, staging=config.staging
    )
    sizes = Fitting(config, needs, places, choices).choose_sizes(model.spec.context_length)
    check_fit(needs, sizes.limits, places, choices)
    found = tuple(rank.bytes(sizes.limits) for rank in needs)
    return Arrangement(tuple(choices), plan, sizes, found, split)


def say_arrangement(config: RunConfig, model: Model, arrangement: Arrangement) -> None:
    """What was chosen, on standard error: the context, what limits it, and with -v the shares."""
    _say(f"context {arrangement.limits.context_length}; {largest_context_text(model, arrangement)}")
    if config.verbose and arrangement.split is not None:
        _say(arrangement.split)


def largest_context_text(
    model: Model, arrangement: Arrangement, unknown: str = "a device does not say how much it holds"
) -> str:
    """In one line. unknown: why it is, where it is not known."""
    sizes, trained = arrangement.sizes, model.spec.context_length
    if sizes.largest_context is None:
        return f"largest context that fits: not known: {unknown}"
    text = f"largest context that fits: {sizes.largest_context}"
    if sizes.limited_by is None:
        return f"{text}, all that the model was trained for"
    return f"{text} of the {trained} that the model was trained for: {sizes.limited_by} has no room for more"


def _say(text: str) -> None:
    print(f"tplaunch: {text}", file=sys.stderr)
