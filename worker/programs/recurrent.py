"""The operations of the recurrent part of a layer in a step."""

from __future__ import annotations

from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.split.exchanges import shares_norm
from tplaunch.coordinator.split.plan import LayerShare
from tplaunch.worker.buffers.recurrent import convolution_state, convolved_length, heads_state
from tplaunch.worker.buffers.stacks import RECURRENT_INPUTS, stacked_tensors
from tplaunch.worker.ops.recurrent import (
    SQUARE_SUMS,
    Convolution,
    GatedNorm,
    Recurrence,
    RecurrentHeads,
    SquareSums,
    UnitNorm,
)
from tplaunch.worker.programs.builder import ProgramBuilder


def write_state(builder: ProgramBuilder, index: int, recurrent: RecurrentSpec, share: LayerShare) -> None:
    """Takes the normed rows into the layer's state, and leaves what they find in it."""
    if not len(share.recurrent):
        return
    if not recurrent.has_heads:
        _convolve_shortly(builder, index, recurrent, share)
        return
    layer, heads = f"blk.{index}", _heads(recurrent, share)
    builder.products(stacked_tensors(layer, RECURRENT_INPUTS, builder.shards), "projected")
    tensor, channels = f"{layer}.ssm_conv1d", convolved_length(recurrent, share)
    stack = builder.stacks[tensor + ".weight"]
    bias = tensor + ".bias" if tensor + ".bias" in builder.stacks else None
    state, kernel = convolution_state(index), recurrent.kernel
    builder.add(
        Convolution(
            stack.name, stack.padded_columns, bias, state, "convolved", 0, channels, kernel, gated=False
        )
    )
    delta = recurrent.kind == "delta"
    if delta:
        builder.add(UnitNorm(2 * heads.num_groups, heads.state_length, builder.spec.norm.epsilon))
    builder.add(
        Recurrence(
            delta=delta,
            heads=heads,
            decay_rate=f"{layer}.ssm_a",
            time_bias=f"{layer}.ssm_dt.bias",
            skip=None if delta else f"{layer}.ssm_d",
            state=heads_state(index),
            time_offset=channels + heads.count * heads.head_length,
        )
    )


def _convolve_shortly(
    builder: ProgramBuilder, index: int, recurrent: RecurrentSpec, share: LayerShare
) -> None:
    layer = f"blk.{index}.shortconv"
    builder.matmul(f"{layer}.in_proj", "normed", "projected")
    stack = builder.stacks[f"{layer}.conv.weight"]
    builder.add(
        Convolution(
            weight=stack.name,
            weight_stride=stack.padded_columns,
            bias=None,
            state=convolution_state(index),
            output="gated",
            output_offset=builder.shards[f"{layer}.out_proj.weight"].column_offset,
            channels=len(share.recurrent),
            kernel=recurrent.kernel,
            gated=True,
        )
    )


def _heads(recurrent: RecurrentSpec, share: LayerShare) -> RecurrentHeads:
    return RecurrentHeads(
        count=len(share.recurrent),
        first=share.recurrent.start,
        divisor=1 if recurrent.tiled else recurrent.heads_per_group,
        modulus=recurrent.num_groups,
        num_groups=len(share.groups),
        first_group=share.groups.start,
        head_length=recurrent.head_length,
        state_length=recurrent.state_length,
    )


def project_output(
    builder: ProgramBuilder, index: int, recurrent: RecurrentSpec, share: LayerShare, num_ranks: int
) -> None:
    """Normalises, gates and projects the outputs of write_state into this rank's partial sums."""
    if not recurrent.has_heads:
        builder.partial(f"blk.{index}.shortconv.out_proj", "gated")
        return
    parity = _exchange_squares(builder, recurrent, share) if shares_norm(recurrent, num_ranks) else None
    if len(share.recurrent):
        builder.add(_gated_norm(builder, index, recurrent, share, parity))
    builder.partial(f"blk.{index}.ssm_out", "gated")


def _exchange_squares(builder: ProgramBuilder, recurrent: RecurrentSpec, share: LayerShare) -> int:
    """Exchanges the square sums of the groups that are normalised; returns their parity."""
    parity = builder.next_parity
    builder.add(
        SquareSums(
            num_heads=len(share.recurrent),
            first_head=share.recurrent.start,
            head_length=recurrent.head_length,
            heads_per_group=recurrent.heads_per_group,
            num_groups=recurrent.num_groups,
            gate_offset=convolved_length(recurrent, share),
            parity=parity,
        )
    )
    builder.exchange_rows(SQUARE_SUMS)
    return parity


def _gated_norm(
    builder: ProgramBuilder, index: int, recurrent: RecurrentSpec, share: LayerShare, parity: int | None
) -> GatedNorm:
    """Returns the norm of heads, or of whole groups where the rank has these and the norm is theirs."""
    of_groups = recurrent.normalises_groups
    whole_groups = of_groups and parity is None
    vectors = share.groups if whole_groups else share.recurrent
    stack = builder.stacks[f"blk.{index}.ssm_norm.weight"]
    return GatedNorm(
        weight=stack.name,
        weight_stride=stack.padded_columns if of_groups else 0,
        num_vectors=len(vectors),
        first_vector=vectors.start,
        length=recurrent.head_length * (recurrent.heads_per_group if whole_groups else 1),
        vectors_per_group=recurrent.heads_per_group if of_groups and not whole_groups else 1,
        epsilon=builder.spec.norm.epsilon,
        gate_first=of_groups,
        gate_offset=convolved_length(recurrent, share),
        output_offset=builder.shards[f"blk.{index}.ssm_out.weight"].column_offset,
        parity=parity,
    )
