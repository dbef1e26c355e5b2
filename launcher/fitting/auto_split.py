"""`--tensor-split auto`: shares as the devices are fast, as far as their memory allows.

A step waits for its slowest rank, so shares in proportion to speed are the fastest. Where these don't fit,
they move towards shares in proportion to memory, which hold the most, just as far as they must.
"""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.config import RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.context_fit import Fitting, needs_for
from tplaunch.launcher.fitting.memory_places import MemoryPlace
from tplaunch.launcher.fitting.speeds import Measure, rank_speeds
from tplaunch.launcher.fitting.staging import plan_for
from tplaunch.launcher.model import Model

NUM_STEPS = 16  # from shares by speed to shares by memory
ROOM = 16384  # positions that a split must leave room for, where the user does not name a context


def choose_weights(
    config: RunConfig,
    model: Model,
    choices: Sequence[DeviceChoice],
    places: Sequence[MemoryPlace],
    measure: Measure | None = None,
) -> tuple[tuple[float, ...], str]:
    """A weight per rank, and how it was found. measure: None for devices that are all on this host."""
    by_memory = _memory_weights(config, choices, places)
    try:
        by_speed = _shares(rank_speeds(config, choices, measure))
    except RunError as error:
        return by_memory, f"by memory: {error}"
    context = config.context_length or min(model.spec.context_length, ROOM)
    for step in range(NUM_STEPS + 1):
        memory_part = step / NUM_STEPS
        weights = _blended(by_speed, by_memory, memory_part)
        plan = plan_for(config, model, weights, choices)
        needs = needs_for(config, model, plan, choices)
        if Fitting(config, needs, places, choices).limit(context) is None:
            break
    return weights, _described(memory_part)


def _described(memory_part: float) -> str:
    if memory_part in (0, 1):
        return "by memory" if memory_part else "by speed"
    return f"{1 - memory_part:.0%} by speed, the rest by memory"


def _blended(by_speed: Sequence[float], by_memory: Sequence[float], memory_part: float) -> tuple[float, ...]:
    pairs = zip(by_speed, by_memory, strict=True)
    return tuple(speed * (1 - memory_part) + memory * memory_part for speed, memory in pairs)


def _memory_weights(
    config: RunConfig, choices: Sequence[DeviceChoice], places: Sequence[MemoryPlace]
) -> tuple[float, ...]:
    """Ranks of one place share it; a rank with a part in two places, as integrated GPUs, has the smaller."""
    weights = []
    for rank, choice in enumerate(choices):
        parts = [place.usable / len(place.ranks) for place in places if rank in place.ranks]
        if not parts:
            raise UsageError(
                f"--tensor-split auto: how much memory {choice.name} has is not known; say so with"
                f" --max-memory, or give shares, such as 3,1 (--devices {config.devices})"
            )
        weights.append(min(parts))
    return _shares(weights if any(weights) else [1.0] * len(weights))


def _shares(values: Sequence[float]) -> tuple[float, ...]:
    """Returns shares of one, in two digits: the others are what measuring again would change."""
    return tuple(float(f"{value / sum(values):.2g}") for value in values)
