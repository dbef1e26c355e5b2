"""Plans who holds what: layers in stages, where the user wants some, and each stage split over its ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.split.plan import RankShare, Stage, make_plan
from tplaunch.coordinator.split.stages import cut_layers, cut_ranks, given_layers, make_stages
from tplaunch.launcher.config import EXPERTS_APART, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.experts_apart import is_processor, weights_apart
from tplaunch.launcher.model import Model

# Of the output's bytes, for a cut of the layers. In decode every row needs the output, which is a fifth of a
# small model, and in a prefill one row of a prompt: half of it loses least where a run does both.
OUTPUT_PART = 0.5


def plan_for(
    config: RunConfig, model: Model, weights: Sequence[float], choices: Sequence[DeviceChoice]
) -> tuple[RankShare, ...]:
    """One share per rank. Raises PlanError for ranks, weights or stages that can't be."""
    stages: Sequence[Stage] = ()
    if config.num_stages > 1:
        stages = stages_for(config, model, weights, [choice.host for choice in choices])
    if config.expert_split != EXPERTS_APART:
        return make_plan(model.spec, weights, config.expert_split, stages)
    others, experts = weights_apart(weights, [is_processor(choice) for choice in choices])
    return make_plan(model.spec, others, stages=stages, expert_weights=experts)


def stages_for(
    config: RunConfig, model: Model, weights: Sequence[float], hosts: Sequence[int]
) -> tuple[Stage, ...]:
    """The stages that the user gave, or such that each has work in proportion to its ranks' weights."""
    ranks = cut_ranks(hosts, config.num_stages)
    if config.pipeline_split is not None:
        return make_stages(ranks, given_layers(config.pipeline_split, model.spec.num_layers))
    sums = [math.fsum(weights[span.start : span.stop]) for span in ranks]
    return make_stages(ranks, cut_layers(layer_costs(model.spec, model.tensors), sums))


def layer_costs(spec: ModelSpec, tensors: Mapping[str, TensorInfo]) -> list[float]:
    """The bytes that a row reads of each layer, of experts those it is routed to.

    The last layer has half the output's: decode takes time for all of it, and a prefill for none.
    """
    costs = [0.0] * spec.num_layers
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        number = rest.partition(".")[0]
        if prefix == "blk" and number.isdecimal() and int(number) < spec.num_layers:
            costs[int(number)] += tensor.nbytes * _part_read(spec, int(number), name)
    output = tensors.get("output.weight") or tensors.get("token_embd.weight")
    costs[-1] += OUTPUT_PART * output.nbytes if output is not None else 0
    return costs


def _part_read(spec: ModelSpec, layer: int, name: str) -> float:
    experts = spec.layers[layer].experts
    return 1.0 if experts is None or "_exps." not in name else experts.used / experts.count
