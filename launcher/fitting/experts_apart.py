"""`--expert-split devices`: the experts that rows are routed to on processors, all else on cards.

So people run models several times their cards' memory: a row reads few of the experts, which the machine's
memory is fast enough for, and all of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.stages import cut_ranks
from tplaunch.launcher.config import EXPERTS_APART, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError

OPTION = f"--expert-split {EXPERTS_APART}"


def is_processor(choice: DeviceChoice) -> bool:
    """Tells whether a rank would hold experts; all that have a driver count as cards."""
    return choice.index is None


def weights_apart(
    weights: Sequence[float], on_processors: Sequence[bool]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the ranks' weights for all but the experts, and for the experts."""
    pairs = list(zip(weights, on_processors, strict=True))
    others = tuple(0.0 if on_processor else weight for weight, on_processor in pairs)
    return others, tuple(weight if on_processor else 0.0 for weight, on_processor in pairs)


def check_experts_apart(
    config: RunConfig,
    spec: ModelSpec,
    choices: Sequence[DeviceChoice],
    weights: Sequence[float] | None = None,
) -> None:
    """Raises UsageError for a model or for devices that --expert-split devices makes no sense with.

    weights: of the ranks, where they are known.
    """
    if config.expert_split != EXPERTS_APART:
        return
    if not spec.experts:
        raise UsageError(f"{OPTION}: the model has no experts; leave the option out")
    weights = weights or (1.0,) * len(choices)
    for number, ranks in enumerate(cut_ranks([choice.host for choice in choices], config.num_stages)):
        own = slice(ranks.start, ranks.stop)
        kinds = {
            is_processor(choice) for choice, weight in zip(choices[own], weights[own], strict=True) if weight
        }
        where = "" if config.num_stages == 1 else f" of stage {number} (ranks {ranks})"
        having = "" if all(weights) else " with a share"
        example = ",".join(["0,cpu"] * config.num_stages)  # of stages by turns
        both = f" --devices needs both{' for each stage' if where else ''}, such as {example}"
        if True not in kinds:
            raise UsageError(
                f"{OPTION}: no rank{where}{having} is on a processor, whose memory would hold the experts;"
                + both
            )
        if False not in kinds:
            raise UsageError(
                f"{OPTION}: no rank{where}{having} is on a card, which would hold all but the experts;" + both
            )


def experts_text(choices: Sequence[DeviceChoice]) -> str:
    """Says which ranks hold the experts, and which all else."""
    return f"Experts are on {_ranks(choices, True)}; all else is on {_ranks(choices, False)}."


def _ranks(choices: Sequence[DeviceChoice], on_processors: bool) -> str:
    found = [
        f"{rank} ({choice.title})"
        for rank, choice in enumerate(choices)
        if is_processor(choice) == on_processors
    ]
    return f"rank{'s' * (len(found) > 1)} {', '.join(found)}"
