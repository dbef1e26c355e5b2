"""The operations of a layer of experts: routing, the products of the chosen experts, their sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.split.expert_shards import EXPERT_BIAS
from tplaunch.coordinator.split.plan import LayerShare
from tplaunch.worker.buffers.stacks import EXPERTS_GATE_UP, stacked_tensors
from tplaunch.worker.ops.common import Quantize
from tplaunch.worker.ops.experts import (
    GROUPED,
    PROMPT_PAIRS,
    TILE_PAIRS,
    ExpertMatMul,
    ExpertSum,
    ExpertTiles,
    HeldExperts,
    Route,
    SharedRoutes,
    route_length,
)
from tplaunch.worker.programs.builder import ProgramBuilder

# Pairs of a row and an expert that an expert must get on average before they are worth grouping.
MIN_PAIRS_PER_EXPERT = 2


def add_experts(
    builder: ProgramBuilder, index: int, experts: ExpertsSpec, share: LayerShare, *, accumulates: bool
) -> None:
    """Adds the experts' outputs to this rank's partial sums, which may hold another part's already.

    The rows must have been routed. Without experts a rank adds nothing: zeros, where it has no other part.
    """
    layer = f"blk.{index}"
    held = HeldExperts(experts.used, share.experts.start, len(share.experts))
    if held.count:
        _gate_up(builder, layer, experts, share)
        _down(builder, layer, experts, share)
    elif accumulates:
        return
    parity, scale = builder.next_parity, builder.spec.block.residual_scale
    builder.add(ExpertSum(held, parity, scale, not experts.weighs_input, accumulates))


def add_routing(builder: ProgramBuilder, index: int, experts: ExpertsSpec) -> None:
    """Routes the normed rows, where this rank holds experts.

    Equal devices compute the same bits and decide by themselves; others are told by the first rank that holds
    experts. Ranks that hold none take part in its telling alone.
    """
    layer, shared, share = f"blk.{index}", builder.shares_routing, builder.share
    if not (shared or share.holds_experts):
        return
    decides = not shared or share.index == share.routers[0]
    if decides:
        builder.matmul(f"{layer}.ffn_gate_inp", "normed", "router", exact=True)
    bias = f"{layer}.{EXPERT_BIAS}"
    parity = builder.next_parity if shared else None
    builder.add(
        Route(
            experts.count,
            experts.used,
            experts.gating,
            experts.normalised,
            experts.scale,
            experts.num_groups,
            experts.used_groups,
            bias if bias in builder.stacks else None,
            parity,
            decides,
        )
    )
    if parity is not None:
        builder.exchange_rows(route_length(experts.used))
        if share.holds_experts:
            builder.add(SharedRoutes(parity))


def _gate_up(builder: ProgramBuilder, layer: str, experts: ExpertsSpec, share: LayerShare) -> None:
    """activation(gate) * up of every pair; ups first where they lie apart."""
    offset = builder.shards[f"{layer}.ffn_down_exps.weight"].column_offset
    stacked = stacked_tensors(layer, EXPERTS_GATE_UP, builder.shards)
    for tensor in reversed(stacked):
        is_up = tensor.endswith(".ffn_up_exps")
        for part in _parts(builder, tensor, experts, share):
            builder.add(
                ExpertMatMul(
                    builder.matrix(part.name),
                    builder.bias(part.name),
                    part.input(builder, "normed"),
                    "expert_activated",
                    offset,
                    len(share.expert_columns),
                    part.held,
                    tiled=part.pairs > 0,
                    activation=None if is_up else experts.activation,
                    gated=len(stacked) == 1,
                    onto_up=len(stacked) > 1 and not is_up,
                    weighs=experts.weighs_input,
                    product_scales=builder.product_scales(part.name),
                    of_prompts=part.pairs == PROMPT_PAIRS,
                    activations=part.activations,
                )
            )


def _down(builder: ProgramBuilder, layer: str, experts: ExpertsSpec, share: LayerShare) -> None:
    for part in _parts(builder, f"{layer}.ffn_down_exps", experts, share):
        builder.add(
            ExpertMatMul(
                builder.matrix(part.name),
                builder.bias(part.name),
                part.input(builder, "expert_activated", experts.used),
                "expert_outputs",
                0,
                builder.spec.embedding_length,
                part.held,
                by_pair=True,
                tiled=part.pairs > 0,
                product_scales=builder.product_scales(part.name),
                of_prompts=part.pairs == PROMPT_PAIRS,
                activations=part.activations,
            )
        )


@dataclass(frozen=True)
class _Part:
    """One part of a stack of experts' matrices, and how it is multiplied."""

    name: str
    held: HeldExperts
    pairs: int  # of a tile; 0 where each is multiplied by itself
    activations: str

    def input(self, builder: ProgramBuilder, source: str, used: int = 0) -> str:
        """Has the source quantized where the product is to have it so, and names what is multiplied.

        used: experts of a row, where the source has rows for pairs.
        """
        if self.activations == "f32":
            return source
        columns = builder.matrix(self.name).columns
        return builder.quantized(Quantize(source, columns, "rows", self.activations, used))


def _pairs_of_tile(builder: ProgramBuilder, part: str, experts: ExpertsSpec) -> int:
    """Returns how many pairs of an expert are multiplied at once; 0 for each by itself.

    Rows of prompts are grouped however many they are, where there are kernels for that.
    """
    if builder.of_prompts and builder.matrix(part).type in GROUPED:
        return PROMPT_PAIRS
    pays = builder.num_rows * experts.used >= MIN_PAIRS_PER_EXPERT * experts.count
    return TILE_PAIRS if pays else 0


def _parts(builder: ProgramBuilder, tensor: str, experts: ExpertsSpec, share: LayerShare) -> Iterator[_Part]:
    """Yields the parts of a stack with their experts, whose pairs it groups first where that pays.

    They are rounded as rows of dense products are, and to float16 only where prompts have tiles of their own.
    """
    first = share.experts.start
    for part in builder.parts(tensor):
        count = len(builder.stacks[part + ".weight"].shards[0].experts)
        held = HeldExperts(experts.used, first, count)
        pairs = _pairs_of_tile(builder, part, experts)
        if pairs:
            builder.group_pairs(ExpertTiles(held, pairs))
        activations = builder.activations_for(builder.matrix(part))
        if activations == "f16" and pairs != PROMPT_PAIRS:
            activations = "f32"
        yield _Part(part, held, pairs, activations)
        first += count
