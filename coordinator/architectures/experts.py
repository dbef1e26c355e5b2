"""The features in which experts of architectures differ, and their specs from metadata and tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.experts import ExpertsSpec, expert_problem
from tplaunch.coordinator.model.spec import FeedForwardSpec


@dataclass(frozen=True)
class ExpertFeatures:
    """The features of the experts of an architecture."""

    gating: str = "softmax"  # where the file does not say
    gatings: tuple[tuple[int, int, str], ...] = ()  # instead of it, by numbers of layers and of tokens
    normalised: bool | None = None  # whether weights are; None: as the file says, and if it does not, no
    row_gate: str = ""  # of the shared experts: as FeedForwardSpec has it
    weighs_input: bool = False
    activation: str = ""  # where it is not that of dense layers

    def of_size(self, num_layers: int, tensors: Mapping[str, TensorInfo]) -> ExpertFeatures:
        """Returns the features with the gating of a model of this size."""
        embedding = tensors.get("token_embd.weight")
        size = (num_layers, embedding.shape[0] if embedding is not None else 0)
        by_size = {(layers, vocabulary): gating for layers, vocabulary, gating in self.gatings}
        return replace(self, gating=by_size.get(size, self.gating))


GATING_NUMBERS = {1: "softmax", 2: "sigmoid", 3: "softmax_chosen"}  # of expert_gating_func
SHARED = "_shexp"  # ends the names of the tensors of experts that all rows go to


Parts = tuple[FeedForwardSpec | None, ExpertsSpec | None]


def feed_forward_parts(
    features: ExpertFeatures | None,
    read: MetadataReader,
    num_layers: int,
    dense: Callable[[int, int], FeedForwardSpec],
    tensors: Mapping[str, TensorInfo],
) -> list[Parts]:
    """Returns for every layer the network that all rows go through, and its experts.

    dense: makes the network from the layer's number and a length.

    Where every layer has experts the file need not say a length; one without any may still count one expert.
    """
    features = features and features.of_size(num_layers, tensors)
    count = read.integer("expert_count", 0)
    routed = [count > 0 and f"blk.{index}.ffn_gate_inp.weight" in tensors for index in range(num_layers)]
    if count and features is not None and not any(routed):
        raise ModelError(f"the model has {count} experts, but no layer has a router, ffn_gate_inp.weight")
    lengths = read.integers("feed_forward_length", num_layers, 0 if all(routed) else None)
    return [
        _expert_parts(features, read, functools.partial(dense, index), count, f"blk.{index}.", tensors)
        if is_routed
        else (dense(index, _positive(read, "feed_forward_length", length)), None)
        for index, (length, is_routed) in enumerate(zip(lengths, routed, strict=True))
    ]


def _positive(read: MetadataReader, key: str, count: int) -> int:
    if not count:
        raise read.refuse(key, count, "a positive number (of every layer without experts)")
    return count


def _expert_parts(
    features: ExpertFeatures | None,
    read: MetadataReader,
    dense: Callable[[int], FeedForwardSpec],
    count: int,
    prefix: str,
    tensors: Mapping[str, TensorInfo],
) -> Parts:
    """Lengths are those of the tensors: metadata may leave them out, and tensors can't lie about theirs."""
    if features is None:
        raise read.refuse("expert_count", count, "0 (the architecture is supported without experts only)")
    down, shared = (tensors.get(f"{prefix}ffn_down{suffix}.weight") for suffix in ("_exps", SHARED))
    if down is None:
        raise ModelError(f"the model has no tensor '{prefix}ffn_down_exps.weight'")
    if not down.columns:
        raise ModelError(f"the tensor {down.name!r} is empty, of the shape {list(down.shape)}")
    used, scale = read.integer("expert_used_count"), read.number("expert_weights_scale", 1.0)
    num_groups = read.integer("expert_group_count", 1) or 1
    used_groups = read.integer("expert_group_used_count", 1) or 1
    problem = expert_problem(count, used, num_groups, used_groups)
    if problem:
        raise ModelError(problem)
    width = read.integer("embedding_length")
    if 2 * used > width:  # ranks share a row's experts and their weights in its place
        raise ModelError(f"a row of {width} elements can't go to {used} experts")
    experts = ExpertsSpec(
        count=count,
        used=used,
        length=down.columns,
        activation=features.activation or dense(down.columns).activation,
        gating=_gating(features, read),
        normalised=_normalised(features, read),
        scale=scale,
        num_groups=num_groups,
        used_groups=used_groups,
        weighs_input=features.weighs_input,
    )
    if shared is None:
        return None, experts
    return replace(dense(shared.columns), suffix=SHARED, row_gate=features.row_gate), experts


def _gating(features: ExpertFeatures, read: MetadataReader) -> str:
    number = read.integer("expert_gating_func", 0)
    if number and number not in GATING_NUMBERS:
        raise read.refuse("expert_gating_func", number, f"one of {', '.join(map(str, GATING_NUMBERS))}")
    return GATING_NUMBERS.get(number, features.gating)


def _normalised(features: ExpertFeatures, read: MetadataReader) -> bool:
    return read.flag("expert_weights_norm", False) if features.normalised is None else features.normalised
