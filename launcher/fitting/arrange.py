"""Arranges a model on devices: who holds what, and the sizes that all ranks allocate for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.placement import Placement
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.coordinator.split.stages import placed
from tplaunch.launcher.config import EXPERTS_APART, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.auto_split import choose_weights
from tplaunch.launcher.fitting.context_fit import ACTIVATION_FEATURES, Fitting, Sizes, needs_for
from tplaunch.launcher.fitting.experts_apart import check_experts_apart, is_processor
from tplaunch.launcher.fitting.fit import RankBytes, check_fit
from tplaunch.launcher.fitting.kv_sizes import BLOCK_LENGTH
from tplaunch.launcher.fitting.memory_places import MemoryPlace, memory_places
from tplaunch.launcher.fitting.speeds import Measure
from tplaunch.launcher.fitting.staging import plan_for
from tplaunch.launcher.lines import say
from tplaunch.launcher.model import Model
from tplaunch.launcher.processors import CPU

MISSING = {"f16": "cooperative matrices of float16 that kernels multiply", "q8": "integer dot product"}


@dataclass(frozen=True)
class Arrangement:
    """A model's plan for these devices. It fits, as far as is known of them."""

    choices: tuple[DeviceChoice, ...]  # by rank
    plan: tuple[RankShare, ...]
    sizes: Sizes
    bytes: tuple[RankBytes, ...]  # by rank
    split: str | None  # how the shares were found, where the user did not give them

    @property
    def placement(self) -> Placement:
        """The host and the stage of each rank. A head without ranks is not among the hosts."""
        hosts = list(dict.fromkeys(choice.host for choice in self.choices))
        return placed(self.plan, [hosts.index(choice.host) for choice in self.choices])

    @property
    def limits(self) -> Limits:
        return self.sizes.limits


def arrange(
    config: RunConfig, model: Model, choices: Sequence[DeviceChoice], measure: Measure | None = None
) -> Arrangement:
    """Raises UsageError or PlanError for what can't be run on these devices, or does not fit them.

    measure: tells the speed of a device; None where all are on this host.
    """
    check_activations(config, choices)
    _check_positions(config, model)
    weights, split = config.rank_weights(len(choices)), None
    check_experts_apart(config, model.spec, choices, weights)
    places = memory_places(choices, config.max_memory)
    if weights is None or _has_uneven_stages(config, choices, places):
        weights, how = choose_weights(config, model, choices, places, measure)
        split = f"shares {', '.join(f'{weight:.3g}' for weight in weights)}: {how}"
    plan = plan_for(config, model, weights, choices)
    needs = needs_for(config, model, plan, choices)
    sizes = Fitting(config, needs, places, choices).choose_sizes(model.spec.context_length)
    try:
        check_fit(needs, sizes.limits, places, choices)
    except UsageError as error:
        raise UsageError(f"{error}{_remedy(config, model, choices)}") from None
    found = tuple(rank.bytes(sizes.limits) for rank in needs)
    return Arrangement(tuple(choices), plan, sizes, found, split)


def _remedy(config: RunConfig, model: Model, choices: Sequence[DeviceChoice]) -> str:
    """Names --expert-split devices, where with it the model would fit on these cards and a processor."""
    is_possible = model.spec.experts and config.num_stages == 1 and config.expert_split != EXPERTS_APART
    if not is_possible or all(map(is_processor, choices)) or any(choice.host for choice in choices):
        return ""
    devices, together = config.devices, list(choices)
    if not any(map(is_processor, choices)):
        devices, together = f"{devices},{CPU}", [*choices, DeviceChoice(None, CPU)]
    apart = replace(config, expert_split=EXPERTS_APART, tensor_split=None)
    plan = plan_for(apart, model, [1.0] * len(together), together)
    places, needs = memory_places(together, config.max_memory), needs_for(apart, model, plan, together)
    context = config.context_length or BLOCK_LENGTH
    if Fitting(apart, needs, places, together).limit(context, keep_reserve=False) is not None:
        return ""
    words = f"--devices {devices} --expert-split {EXPERTS_APART}"
    return f"; it fits with {words}, which has experts in this machine's memory"


def _has_uneven_stages(
    config: RunConfig, choices: Sequence[DeviceChoice], places: Sequence[MemoryPlace]
) -> bool:
    """Tells whether stages are to be cut by the devices' speed and memory, which is not asked for.

    It takes devices of several names or kinds, of which each tells how much it holds.
    """
    if config.num_stages == 1 or config.pipeline_split is not None or config.tensor_split is not None:
        return False
    known = {rank for place in places for rank in place.ranks}
    return len({(choice.name, choice.kind) for choice in choices}) > 1 and len(known) == len(choices)


def check_activations(config: RunConfig, choices: Sequence[DeviceChoice]) -> None:
    """Raises UsageError for a device that can't multiply by the activations that the user wants."""
    needed = ACTIVATION_FEATURES.get(config.activations, frozenset())
    for choice in choices:
        is_vulkan = choice.index is not None
        if config.activations in choice.lacks or (is_vulkan and not needed.isdisjoint(config.without)):
            raise UsageError(
                f"--activations {config.activations}: {choice.title} has no"
                f" {MISSING[config.activations]}; use --activations f32"
            )


def _check_positions(config: RunConfig, model: Model) -> None:
    """Positions that were learned are rows of a table, which has no more; others are computed."""
    learned, context = model.num_learned, config.context_length or 0
    if learned is not None and context > learned:
        raise UsageError(
            f"a context of {context} is not possible: the model has learned {learned} positions, and has no"
            f" others; give --context {learned} or less"
        )


def say_arrangement(config: RunConfig, model: Model, arrangement: Arrangement) -> None:
    """Says on standard error where the context is not the model's own, and why; with -v always.

    With -v also the shares.
    """
    context, trained = arrangement.limits.context_length, model.spec.context_length
    if config.verbose or context != trained:
        found = largest_context_text(model, arrangement)
        say(f"context {context}{': ' if context > trained else '; '}{found}")
    if config.verbose and arrangement.split is not None:
        say(arrangement.split)


def largest_context_text(
    model: Model, arrangement: Arrangement, unknown: str = "a device does not say how much it holds"
) -> str:
    """Says in one line which context fits. unknown: the reason, where it is not known."""
    sizes, trained = arrangement.sizes, model.spec.context_length
    if sizes.limits.context_length > trained:
        return f"the model was trained for only {trained}: what it writes beyond may be poor"
    if sizes.largest_context is None:
        return f"largest context that fits: not known: {unknown}"
    text = f"largest context that fits: {sizes.largest_context}"
    if sizes.limited_by is None:
        return f"{text}, all that the model was trained for"
    return f"{text} of the {trained} that the model was trained for: {sizes.limited_by} has no room for more"
