"""Dispatches of layers with a recurrent state: over a step's sequences, and row by row."""

from __future__ import annotations

from tplaunch.worker.ops.recurrent import (
    MAX_KERNEL,
    SQUARE_SUMS,
    STATE_STEP,
    Convolution,
    GatedNorm,
    Recurrence,
    SquareSums,
    UnitNorm,
)
from tplaunch.worker.vulkan.dispatch.context import FLOAT, GROUP_SIZE, DispatchContext, ceil
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.recurrent import (
    ConvolutionPush,
    GatedNormPush,
    RecurrencePush,
    SquareSumsPush,
    UnitNormPush,
)


def _runs(context: DispatchContext) -> dict[str, int]:
    """Returns the constants by which a kernel finds the rows of a sequence, and its state."""
    layout = context.layout
    return {
        "run_starts": layout.run_starts,
        "read_slots": layout.read_slots,
        "write_slots": layout.write_slots,
    }


def _max_runs(context: DispatchContext) -> int:
    """A run has one row at least, and a slot of its own to write."""
    return min(context.program.rows, context.limits.num_slots)


def convolution(op: Convolution, context: DispatchContext) -> Dispatch:
    assert op.kernel <= MAX_KERNEL, f"a convolution over {op.kernel} rows"
    push = ConvolutionPush(
        step=context.address("step"),
        mixed=context.address("projected"),
        weight=context.address(op.weight),
        bias=context.address_or_none(op.bias),
        state=context.address(op.state),
        output=context.address(op.output) + op.output_offset * FLOAT,
        **_runs(context),
        channels=op.channels,
        kernel=op.kernel,
        weight_stride=op.weight_stride,
        input_stride=context.stride("projected"),
        output_stride=context.stride(op.output),
        has_bias=op.bias is not None,
        gated=op.gated,
    )
    return Dispatch("convolution", push, (ceil(op.channels, GROUP_SIZE), _max_runs(context), 1))


def unit_norm(op: UnitNorm, context: DispatchContext) -> Dispatch:
    push = UnitNormPush(
        step=context.address("step"),
        vectors=context.address("convolved"),
        count=op.count,
        length=op.length,
        stride=context.stride("convolved"),
        epsilon=op.epsilon,
    )
    return Dispatch("unit_norm", push, (ceil(op.count, context.subgroups), context.program.rows, 1))


def recurrence(op: Recurrence, context: DispatchContext) -> Dispatch:
    heads = op.heads
    assert heads.state_length % STATE_STEP == 0, f"keys of {heads.state_length} elements"
    first = heads.first * FLOAT
    push = RecurrencePush(
        step=context.address("step"),
        convolved=context.address("convolved"),
        times=context.address("projected") + op.time_offset * FLOAT,
        factors=context.address(op.decay_rate) + first,
        time_bias=context.address(op.time_bias) + first,
        skips=0 if op.skip is None else context.address(op.skip) + first,
        state=context.address(op.state),
        output=context.address("recurrence_output"),
        **_runs(context),
        num_heads=heads.count,
        first_head=heads.first,
        divisor=heads.divisor,
        modulus=heads.modulus,
        num_groups=heads.num_groups,
        first_group=heads.first_group,
        head_length=heads.head_length,
        state_length=heads.state_length,
        input_stride=context.stride("convolved"),
        times_stride=context.stride("projected"),
        output_stride=context.stride("recurrence_output"),
        delta=op.delta,
    )
    groups = (ceil(heads.head_length, GROUP_SIZE), heads.count, _max_runs(context))
    return Dispatch("recurrence", push, groups)


def square_sums(op: SquareSums, context: DispatchContext) -> Dispatch:
    push = SquareSumsPush(
        step=context.address("step"),
        input=context.address("recurrence_output"),
        gate=context.address("projected") + op.gate_offset * FLOAT,
        output=context.partials.own_address(op.parity),
        num_heads=op.num_heads,
        first_head=op.first_head,
        head_length=op.head_length,
        heads_per_group=op.heads_per_group,
        num_groups=op.num_groups,
        input_stride=context.stride("recurrence_output"),
        gate_stride=context.stride("projected"),
        output_stride=SQUARE_SUMS,
    )
    return Dispatch("square_sums", push, (ceil(op.num_groups, context.subgroups), context.program.rows, 1))


def gated_norm(op: GatedNorm, context: DispatchContext) -> Dispatch:
    partials = context.partials
    # Lavapipe of Mesa 26.1 reads one of them even where there are none: then it is of the input.
    addends, num_addends, stride = context.address("recurrence_output"), 0, 0
    if op.parity is not None:
        addends, num_addends = partials.parity_address(op.parity), partials.num_partials
        stride = SQUARE_SUMS
    push = GatedNormPush(
        step=context.address("step"),
        input=context.address("recurrence_output"),
        gate=context.address("projected") + op.gate_offset * FLOAT,
        weight=context.address(op.weight),
        output=context.address("gated") + op.output_offset * FLOAT,
        addends=addends,
        num_addends=num_addends,
        slot_stride=partials.slot_bytes // FLOAT,
        addend_stride=stride,
        input_stride=context.stride("recurrence_output"),
        gate_stride=context.stride("projected"),
        output_stride=context.stride("gated"),
        num_vectors=op.num_vectors,
        first_vector=op.first_vector,
        length=op.length,
        vectors_per_group=op.vectors_per_group,
        first_group=op.first_group,
        weight_stride=op.weight_stride,
        gate_first=op.gate_first,
        inverse_length=1 / (op.vectors_per_group * op.length),
        epsilon=op.epsilon,
    )
    return Dispatch("gated_norm", push, (ceil(op.num_vectors, context.subgroups), context.program.rows, 1))
