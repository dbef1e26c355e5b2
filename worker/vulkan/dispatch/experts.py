"""Dispatches of experts: routing, products with the chosen ones, their sum."""

from __future__ import annotations

from tplaunch.coordinator.model.experts import GATINGS
from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.activation_functions import ACTIVATION_NUMBERS
from tplaunch.worker.ops.experts import (
    PROMPT_PAIRS,
    TILE_PAIRS,
    ExpertMatMul,
    ExpertSum,
    ExpertTiles,
    Route,
    RowGate,
    SharedRoutes,
)
from tplaunch.worker.vulkan.dispatch.context import FLOAT, GROUP_SIZE, QUAD, DispatchContext, ceil, flags_of
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.experts import (
    EXPERT_TILES,
    ExpertsPush,
    ExpertSumPush,
    ExpertTilesPush,
    RoutePush,
    RowGatePush,
)
from tplaunch.worker.vulkan.push_constants.kernels import SumNormPush
from tplaunch.worker.vulkan.variants import LANES, kernel_of

# Flags of shaders/experts.slang, and how far to the left in them, and in the experts', other numbers are.
HAS_BIAS, GATED, ONTO_UP, WEIGHS, BY_PAIR, HAS_FACTORS = 1, 2, 4, 8, 16, 32
ACTIVATION_SHIFT, COUNT_SHIFT = 8, 16
TILE_COLUMNS = 8  # matrix rows that a subgroup of it multiplies by


def route(op: Route, context: DispatchContext) -> Dispatch:
    push = RoutePush(
        step=context.address("step"),
        logits=context.address("router"),
        bias=context.address_or_none(op.bias),
        routes=context.address("routes") if op.parity is None else context.partials.own_address(op.parity),
        count=op.count if op.decides else 0,
        used=op.used,
        logits_stride=context.stride("router"),
        routes_stride=context.stride("routes"),
        gating=GATINGS.index(op.gating),
        normalises=op.normalises,
        by_logits=op.by_logits,
        has_bias=op.bias is not None,
        num_groups=op.num_groups,
        used_groups=op.used_groups,
        scale=op.scale,
    )
    return Dispatch("route", push, (ceil(context.program.rows, context.subgroups), 1, 1))


def shared_routes(op: SharedRoutes, context: DispatchContext) -> Dispatch:
    """A sum as of the residual stream's partial sums, of shorter rows and without a norm."""
    partials, quads = context.partials, context.quads("routes")
    push = SumNormPush(
        step=context.address("step"),
        addends=partials.parity_address(op.parity),
        output=context.address("routes"),
        num_addends=partials.num_partials,
        slot_stride=partials.slot_bytes // QUAD,
        row_stride=quads,
        width=context.stride("routes"),
    )
    return Dispatch(context.sum_norm, push, (context.program.rows, 1, 1))


def expert_tiles(op: ExpertTiles, context: DispatchContext) -> Dispatch:
    push = ExpertTilesPush(
        step=context.address("step"),
        routes=context.address("routes"),
        tiles=context.address("expert_tiles"),
        routes_stride=context.stride("routes"),
        used=op.held.used,
        first_expert=op.held.first,
        num_experts=op.held.count,
        num_tiles=op.held.num_tiles(context.program.rows, op.pairs),
    )
    return Dispatch(EXPERT_TILES[op.pairs], push, (ceil(op.held.count, context.subgroups), 1, 1))


def expert_matmul(op: ExpertMatMul, context: DispatchContext) -> Dispatch:
    matrix, held, rows = op.matrix, op.held, context.program.rows
    flags = {
        HAS_BIAS: op.bias is not None,
        GATED: op.gated,
        ONTO_UP: op.onto_up,
        WEIGHS: op.weighs,
        BY_PAIR: op.by_pair,
        HAS_FACTORS: op.product_scales is not None,
    }
    push = ExpertsPush(
        step=context.address("step"),
        **FORMATS[matrix.type].addresses(context.address(matrix.name), matrix.rows, matrix.columns),
        input=context.address(op.input),
        output=context.address(op.output) + op.output_offset * FLOAT,
        bias=context.address_or_none(op.bias),
        factors=context.address_or_none(op.product_scales),
        tiles=context.address("expert_tiles"),
        routes=context.address("routes"),
        input_stride=context.quads(op.input),
        output_stride=context.stride(op.output),
        columns=op.columns,
        row_tiles=matrix.columns // COLUMN_TILE,
        used=held.used,
        routes_stride=context.stride("routes"),
        experts=held.first | held.count << COUNT_SHIFT,
        flags=flags_of(flags) | ACTIVATION_NUMBERS[op.activation] << ACTIVATION_SHIFT,
    )
    if op.of_prompts:
        return _grouped(op, context, push)
    weights = matrix.type.lower() + "_dot" * (op.activations == "q8")
    # What loads weights fastest in products does so here.
    suffix = "_wide" if context.selection.variant(f"matvec4_{weights}", matrix.rows).is_wide else ""
    pairs, groups = (TILE_PAIRS, held.num_tiles(rows)) if op.tiled else (1, rows * held.used)
    columns = context.subgroups * (TILE_COLUMNS // 2 if op.gated else TILE_COLUMNS)
    return Dispatch(f"experts_{weights}_{pairs}{suffix}", push, (ceil(op.columns, columns), 1, groups))


def _grouped(op: ExpertMatMul, context: DispatchContext, push: ExpertsPush) -> Dispatch:
    """By tiles of prompts, of which each has so many parts; those of one column tile run together."""
    weights = op.matrix.type.lower()
    family = {
        "f32": f"grouped_{weights}",
        "q8": f"grouped_{weights}_dot",
        "f16": f"matrices_{weights}_grouped",
    }[op.activations]
    variant = context.selection.variant(family)
    rows, columns = variant.tile
    columns *= context.subgroups if variant.needs == LANES else 1
    num_parts = op.held.num_tiles(context.program.rows, PROMPT_PAIRS) * PROMPT_PAIRS // rows
    groups = ceil(op.columns, columns // 2 if op.gated else columns)
    return Dispatch(kernel_of(family, variant), push, (num_parts, groups, 1))


def expert_sum(op: ExpertSum, context: DispatchContext) -> Dispatch:
    quads = context.quads("hidden")
    push = ExpertSumPush(
        step=context.address("step"),
        input=context.address("expert_outputs"),
        output=context.partials.own_address(op.parity),
        routes=context.address("routes"),
        row_stride=quads,
        routes_stride=context.stride("routes"),
        used=op.held.used,
        first_expert=op.held.first,
        num_experts=op.held.count,
        weighs=op.weighs,
        accumulates=op.accumulates,
        scale=op.scale,
    )
    return Dispatch("expert_sum", push, (ceil(quads, GROUP_SIZE), context.program.rows, 1))


def row_gate(op: RowGate, context: DispatchContext) -> Dispatch:
    push = RowGatePush(
        step=context.address("step"),
        input=context.address(op.input),
        weight=context.address(op.weight),
        values=context.address(op.values) + op.offset * FLOAT,
        quads=op.width * FLOAT // QUAD,
        input_stride=context.quads(op.input),
        columns=op.columns,
        stride=context.stride(op.values),
    )
    return Dispatch("row_gate", push, (context.program.rows, 1, 1))
