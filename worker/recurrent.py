"""What the recurrent part of a layer computes in a step, as ops."""

from __future__ import annotations

from coordinator.plan import LayerShare, shares_norm
from coordinator.recurrent_spec import RecurrentSpec
from worker.builder import ProgramBuilder
from worker.recurrent_ops import (
    SQUARE_SUMS,
    Convolution,
    GatedNorm,
    Heads,
    Recurrence,
    SquareSums,
    UnitNorm,
)
from worker.stacks import MIXED, stacked_tensors


def write_state(builder: ProgramBuilder, index: int, recurrent: RecurrentSpec, share: LayerShare) -> None:
    """Takes the normed rows into the layer's state, and leaves what they find in it."""
    if not len(share.recurrent):
        return
    if not recurrent.has_heads:
        _convolve_shortly(builder, index, recurrent, share)
        return
    layer, heads = f"blk.{index}", _heads(recurrent, share)
    builder.products(stacked_tensors(layer, MIXED, builder.shards), "mixed")
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
    factors = builder.stacks[f"{layer}.ssm_a"]
    builder.add(
        Recurrence(
            delta=delta,
            heads=heads,
            factor=factors.name,
            scalar_stride=factors.padded_columns if factors.rows > 1 else 1,
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
    builder.matmul(f"{layer}.in_proj", "normed", "mixed")
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


def _heads(recurrent: RecurrentSpec, share: LayerShare) -> Heads:
    return Heads(
        count=len(share.recurrent),
        first=share.recurrent.start,
        divisor=1 if recurrent.tiled else recurrent.heads_per_group,
        modulus=recurrent.num_groups,
        num_groups=len(share.groups),
        first_group=share.groups.start,
        head_length=recurrent.head_length,
        state_length=recurrent.state_length,
    )


def give_out(
    builder: ProgramBuilder, index: int, recurrent: RecurrentSpec, share: LayerShare, num_ranks: int
) -> None:
    """What write_state left, normalised and gated, into this rank's partial sums."""
    if not recurrent.has_heads:
        builder.partial(f"blk.{index}.shortconv.out_proj", "gated")
        return
    output, count = f"blk.{index}.ssm_out", len(share.recurrent)
    gate_offset = convolved_length(recurrent, share)
    parity = None
    if shares_norm(recurrent, num_ranks):
        parity = builder.next_parity
        builder.add(
            SquareSums(
                num_heads=count,
                first_head=share.recurrent.start,
                head_length=recurrent.head_length,
                heads_per_group=recurrent.heads_per_group,
                num_groups=recurrent.num_groups,
                gate_offset=gate_offset,
                parity=parity,
            )
        )
        builder.exchange_rows(SQUARE_SUMS)
    if count:
        vectors = _norm_vectors(recurrent, share, by_head=parity is not None)
        stack = builder.stacks[f"blk.{index}.ssm_norm.weight"]
        builder.add(
            GatedNorm(
                weight=stack.name,
                weight_stride=stack.padded_columns if recurrent.normalises_groups else 0,
                num_vectors=vectors[0],
                first_vector=vectors[1],
                length=vectors[2],
                vectors_per_group=recurrent.heads_per_group if parity is not None else 1,
                epsilon=builder.spec.norm.epsilon,
                gate_first=recurrent.normalises_groups,
                gate_offset=gate_offset,
                output_offset=builder.shards[output + ".weight"].column_offset,
                parity=parity,
            )
        )
    builder.partial(output, "gated")


def _norm_vectors(recurrent: RecurrentSpec, share: LayerShare, by_head: bool) -> tuple[int, int, int]:
    """How many vectors are normalised, the number of the first, and their length: heads or whole groups."""
    if recurrent.normalises_groups and not by_head:
        return len(share.groups), share.groups.start, recurrent.heads_per_group * recurrent.head_length
    return len(share.recurrent), share.recurrent.start, recurrent.head_length


def convolution_state(layer: int) -> str:
    """The buffer of the last inputs of a layer's convolution."""
    return f"state.{layer}.convolution"


def heads_state(layer: int) -> str:
    """The buffer of the states of a layer's heads."""
    return f"state.{layer}.heads"


def convolved_length(recurrent: RecurrentSpec, share: LayerShare) -> int:
    """Channels of a rank's convolution."""
    keys = 2 * len(share.groups) * recurrent.state_length
    return keys + len(share.recurrent) * recurrent.head_length


def mixed_length(recurrent: RecurrentSpec, share: LayerShare) -> int:
    """Elements of a row of what a rank's input projection gives."""
    held = len(share.recurrent)
    if not recurrent.has_heads:
        return 3 * held
    num_scalars = 2 if recurrent.kind == "delta" else 1
    return convolved_length(recurrent, share) + held * (recurrent.head_length + num_scalars)
