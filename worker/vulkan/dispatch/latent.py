"""Dispatches of what only latent attention needs: each head's own products, and parts of heads copied."""

from __future__ import annotations

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.latent import CopyHeads, HeadParts, HeadProducts
from tplaunch.worker.vulkan.dispatch.context import FLOAT, GROUP_SIZE, QUAD, DispatchContext, ceil
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.attention import CopyHeadsPush, HeadProductsPush

ROWS, COLUMNS = 4, 4  # that a subgroup of shaders/head_products.slang computes
QUAD_FLOATS = QUAD // FLOAT


def head_products(op: HeadProducts, context: DispatchContext) -> Dispatch:
    matrix = op.matrix
    assert op.input.offset % QUAD_FLOATS == op.input.stride % QUAD_FLOATS == 0, "heads begin at a float4"
    push = HeadProductsPush(
        step=context.address("step"),
        **FORMATS[matrix.type].addresses(context.address(matrix.name), matrix.rows, matrix.columns),
        input=_address(op.input, context),
        output=_address(op.output, context),
        num_heads=op.num_heads,
        columns=op.length,
        tiles=matrix.columns // COLUMN_TILE,
        input_stride=context.quads(op.input.buffer),
        input_head_stride=op.input.stride // QUAD_FLOATS,
        output_stride=context.stride(op.output.buffer),
        output_head_stride=op.output.stride,
    )
    groups = ceil(op.num_heads * ceil(op.length, COLUMNS), context.subgroups)
    kernel = f"head_products_{matrix.type.lower()}"
    return Dispatch(kernel, push, (groups, ceil(context.program.rows, ROWS), 1))


def copy_heads(op: CopyHeads, context: DispatchContext) -> Dispatch:
    push = CopyHeadsPush(
        step=context.address("step"),
        input=_address(op.input, context),
        output=_address(op.output, context),
        num_heads=op.num_heads,
        length=op.length,
        input_stride=context.stride(op.input.buffer),
        input_head_stride=op.input.stride,
        output_stride=context.stride(op.output.buffer),
        output_head_stride=op.output.stride,
    )
    return Dispatch("copy_heads", push, (ceil(op.num_heads * op.length, GROUP_SIZE), context.program.rows, 1))


def _address(place: HeadParts, context: DispatchContext) -> int:
    return context.address(place.buffer) + place.offset * FLOAT
