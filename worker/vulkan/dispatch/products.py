"""Dispatches of products: which kernel multiplies, and in how many workgroups."""

from __future__ import annotations

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.activation_functions import ACTIVATION_NUMBERS
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.quantized import scales_word
from tplaunch.worker.vulkan.dispatch.context import (
    COUNT_WORDS,
    FLOAT,
    MAX_GRID,
    QUAD,
    DispatchContext,
    ceil,
    flags_of,
)
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.kernels import MatMulPush
from tplaunch.worker.vulkan.variants import LANES, kernel_of, matvec_kind

HAS_BIAS, GATED, ACCUMULATES, HAS_FACTORS, PREFETCHES = 1, 2, 4, 8, 16  # flags of shaders/product.slang


def matmul(op: MatMul, context: DispatchContext) -> Dispatch:
    matrix, weight_format = op.matrix, FORMATS[op.matrix.type]
    num_rows = context.num_rows(op)
    kernel, (rows, columns), prefetches = _product_kernel(op, context, num_rows)
    if op.parity is None:
        output, stride = context.address(op.output), context.stride(op.output)
    else:
        output, stride = context.partials.own_address(op.parity), context.stride("hidden")
    input_scales = 0
    if op.activations != "f32":
        input_scales = context.address(op.input) + scales_word(matrix.columns, op.activations) * FLOAT
    push = MatMulPush(
        step=context.address("step"),
        **weight_format.addresses(context.address(matrix.name), matrix.rows, matrix.columns),
        input=context.address(op.input),
        input_scales=input_scales,
        output=output + op.output_offset * FLOAT,
        bias=context.address_or_none(op.bias),
        factors=context.address_or_none(op.product_scales),
        input_stride=context.quads(op.input),
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
                PREFETCHES: prefetches and matrix.columns > 0,  # else it lies nowhere
            }
        ),
        row_quads=weight_format.row_bytes(matrix.columns) // QUAD,
        scale=op.scale,
        softcap=op.softcap,
    )
    groups = ceil(op.columns, columns // 2 if op.gated else columns)
    if is_tiled(op):  # workgroups of the same columns, which run together, read these from the memory once
        return Dispatch(kernel, push, (ceil(num_rows, rows), groups, 1))
    grid = (min(groups, MAX_GRID), ceil(groups, MAX_GRID), ceil(num_rows, rows))
    return Dispatch(kernel, push, grid)


def is_tiled(op: MatMul) -> bool:
    """Tells if a product has the kernels of prompts, whose grid goes over rows first."""
    return op.of_prompts or op.activations == "f16"


def _product_kernel(op: MatMul, context: DispatchContext, num_rows: int) -> tuple[str, tuple[int, int], bool]:
    """Its name, the rows and columns that a workgroup computes, and whether it is to prefetch."""
    weights = op.matrix.type.lower() + "_dot" * (op.activations == "q8")
    if is_tiled(op):
        family = f"{'matrices' if op.activations == 'f16' else 'tiled'}_{weights}"
        variant = context.selection.variant(family, op.matrix.rows, program_rows=num_rows)
        rows, columns = variant.tile
        own = rows, columns * (context.subgroups if variant.needs == LANES else 1)
        return kernel_of(family, variant), own, False
    family = f"{matvec_kind(num_rows)}_{weights}"
    variant = context.selection.variant(family, op.matrix.rows, op.matrix.columns)
    rows, columns = variant.tile
    num_tiles = 1 if variant.split_from else context.subgroups
    return kernel_of(family, variant), (rows, columns * num_tiles), variant.prefetches
