"""Dispatches of products: which kernel multiplies, and in how many workgroups."""

from __future__ import annotations

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.activation_functions import ACTIVATION_NUMBERS
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.quantized import scales_word
from tplaunch.worker.vulkan.dispatch.context import COUNT_WORDS, FLOAT, QUAD, DispatchContext, ceil, flags_of
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.kernels import MatMulPush

HAS_BIAS, GATED, ACCUMULATES, HAS_FACTORS = 1, 2, 4, 8  # flags of shaders/product.slang
COOPERATIVE_TILE = (2, 4)  # matrices down and across that a workgroup of shaders/matmul_coop.slang computes
MAX_GRID = 65535  # workgroups in one dimension that every device has; shaders/matmul.slang counts on it


def matmul(op: MatMul, context: DispatchContext) -> Dispatch:
    matrix = op.matrix
    if op.parity is None:
        output, stride = context.address(op.output), context.stride(op.output)
    else:
        output, stride = context.partials.own_address(op.parity), context.stride("hidden")
    input_scales = 0
    if op.activations != "f32":
        input_scales = context.address(op.input) + scales_word(matrix.columns, op.activations) * FLOAT
    push = MatMulPush(
        step=context.address("step"),
        **FORMATS[matrix.type].addresses(context.address(matrix.name), matrix.rows, matrix.columns),
        input=context.address(op.input),
        input_scales=input_scales,
        output=output + op.output_offset * FLOAT,
        bias=context.address_or_none(op.bias),
        factors=context.address_or_none(op.product_scales),
        input_stride=context.stride(op.input) * FLOAT // QUAD,
        output_stride=stride,
        columns=op.columns,
        tiles=matrix.columns // COLUMN_TILE,
        count_word=COUNT_WORDS[op.rows],
        activation=ACTIVATION_NUMBERS[op.activation],
        flags=flags_of(
            {
                HAS_BIAS: op.bias is not None,
                GATED: op.gated,
                ACCUMULATES: op.accumulates,
                HAS_FACTORS: op.product_scales is not None,
            }
        ),
        scale=op.scale,
        softcap=op.softcap,
    )
    num_rows = context.num_rows(op)
    kernel, rows, columns, rows_first = _product_kernel(op, context, num_rows)
    groups, row_groups = ceil(op.columns, columns // 2 if op.gated else columns), ceil(num_rows, rows)
    if rows_first:  # workgroups of the same columns, which run together, read these from the memory once
        return Dispatch(kernel, push, (row_groups, groups, 1))
    return Dispatch(kernel, push, (min(groups, MAX_GRID), ceil(groups, MAX_GRID), row_groups))


def _product_kernel(op: MatMul, context: DispatchContext, num_rows: int) -> tuple[str, int, int, bool]:
    """Its name, the rows and columns that a workgroup computes, and if the grid goes over rows first."""
    weights = op.matrix.type.lower()
    if op.activations == "f16":
        rows, columns = (context.matrix_size * count for count in COOPERATIVE_TILE)
        return f"matmul_{weights}_coop{context.matrix_size}", rows, columns, False
    family = f"{'matvec' if num_rows == 1 else 'matmul'}_{weights}{'_dot' * (op.activations == 'q8')}"
    by_lanes = op.activations == "f32" and context.selection.offers(family + "_lanes")
    tiled = f"tiled_{weights}"
    if op.of_prompts and op.activations == "f32" and not by_lanes and context.selection.offers(tiled):
        variant = context.selection.variant(tiled, op.matrix.rows)
        return tiled + variant.suffix, *variant.tile, True
    family += "_lanes" * by_lanes
    variant = context.selection.variant(family, op.matrix.rows)
    rows, columns = variant.tile
    return family + variant.suffix, rows, columns * context.subgroups, by_lanes
