"""Dispatches of what works row by row: sums with norms, quantization, activations."""

from __future__ import annotations

from tplaunch.collectives.arena import SLICE_UNIT
from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.ops.activation_functions import ACTIVATION_NUMBERS
from tplaunch.worker.ops.common import Activate, Quantize, SumNorm, SumSlice
from tplaunch.worker.ops.quantized import scales_word
from tplaunch.worker.vulkan.dispatch.context import (
    COUNT_WORDS,
    FLOAT,
    GROUP_SIZE,
    MAX_GRID,
    QUAD,
    DispatchContext,
    ceil,
)
from tplaunch.worker.vulkan.dispatch.norms import norm_fields
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.kernels import (
    ActivatePush,
    QuantizePush,
    SumNormPush,
    SumSlicePush,
)

SLICE_QUADS = 512  # float4 that a workgroup of shaders/sum_slice.slang adds up


def sum_norm(op: SumNorm, context: DispatchContext) -> Dispatch:
    partials = context.partials
    only_logit_rows = op.rows == "logit_rows"
    addends, num_addends = 0, 0
    if op.parity is not None:
        addends = partials.parity_address(op.parity)
        num_addends = 1 if op.summed else partials.num_partials
    elif op.addend is not None:
        addends, num_addends = context.address(op.addend), 1
    assert partials.slot_bytes % QUAD == 0, f"slots of {partials.slot_bytes} bytes"
    push = SumNormPush(
        addends=addends,
        num_addends=num_addends,
        logit_rows=context.layout.logit_rows,
        only_logit_rows=only_logit_rows,
        **norm_fields(op, context),
    )
    num_rows = context.program.logit_rows if only_logit_rows else context.program.rows
    return Dispatch(context.sum_norm, push, (num_rows, 1, 1))


def sum_slice(op: SumSlice, context: DispatchContext) -> Dispatch:
    partials, row_quads = context.partials, context.quads("hidden")
    push = SumSlicePush(
        step=context.address("step"),
        partials=partials.parity_address(op.parity),
        num_partials=partials.num_partials,
        slot_stride=partials.slot_bytes // QUAD,
        row_stride=row_quads,
        rank=op.rank,
    )
    units = ceil(context.program.rows * row_quads, SLICE_UNIT * FLOAT // QUAD)
    longest = ceil(units, partials.num_partials) * SLICE_UNIT * FLOAT // QUAD
    return Dispatch("sum_slice", push, (ceil(longest, SLICE_QUADS), 1, 1))


def quantize(op: Quantize, context: DispatchContext) -> Dispatch:
    output, tiles, per_row = context.address(op.output), op.columns // COLUMN_TILE, max(op.used, 1)
    push = QuantizePush(
        step=context.address("step"),
        input=context.address(op.input),
        output=output,
        scales=output + scales_word(op.columns, op.activations) * FLOAT,
        input_stride=context.quads(op.input),
        output_stride=context.quads(op.output),
        tiles=tiles,
        count_word=COUNT_WORDS[op.rows],
        per_row=per_row,
    )
    num_rows = context.num_rows(op) * per_row
    rows = min(num_rows, MAX_GRID), ceil(num_rows, MAX_GRID)
    if op.activations == "f16":
        return Dispatch("quantize_f16", push, (*rows, 1))
    return Dispatch("quantize_q8", push, (ceil(tiles, GROUP_SIZE), *rows))


def activate(op: Activate, context: DispatchContext) -> Dispatch:
    push = ActivatePush(
        step=context.address("step"),
        gate_up=context.address("gate_up"),
        divisors=context.address_or_none(op.divisors),
        output=context.address(op.output) + op.output_offset * FLOAT,
        columns=op.columns,
        input_stride=context.stride("gate_up"),
        output_stride=context.stride(op.output),
        activation=ACTIVATION_NUMBERS[op.activation],
        gated=op.gated,
        has_divisors=op.divisors is not None,
    )
    groups = (ceil(op.columns, GROUP_SIZE), context.program.rows, 1)
    return Dispatch("activate", push, groups)
