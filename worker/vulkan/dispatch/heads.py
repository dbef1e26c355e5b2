"""Dispatches of the ops on queries and keys before they are cached: clamped, normalised, rotated."""

from __future__ import annotations

from tplaunch.worker.ops.attention import AttentionHeads, Clamp, HeadNorm, HeadSums, Rotate, Rotation
from tplaunch.worker.vulkan.dispatch.context import FLOAT, GROUP_SIZE, QUAD, DispatchContext, ceil
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.attention import (
    ClampPush,
    HeadNormPush,
    HeadSumsPush,
    RopeRowsPush,
)

QUAD_FLOATS = QUAD // FLOAT


def clamp(op: Clamp, context: DispatchContext) -> Dispatch:
    push = ClampPush(
        step=context.address("step"),
        rows=context.address("qkv"),
        quads=ceil(op.columns, QUAD_FLOATS),
        row_stride=context.quads("qkv"),
        limit=op.limit,
    )
    groups = (ceil(ceil(op.columns, QUAD_FLOATS), GROUP_SIZE), context.program.rows, 1)
    return Dispatch("clamp_rows", push, groups)


def head_sums(op: HeadSums, context: DispatchContext) -> Dispatch:
    push = HeadSumsPush(
        step=context.address("step"),
        qkv=context.address("qkv"),
        sums=context.partials.own_address(op.parity),
        **_quads(op.heads, context),
        skips_first_key=op.skips_first_key,
    )
    return Dispatch("head_sums", push, (ceil(context.program.rows, context.subgroups), 1, 1))


def head_norm(op: HeadNorm, context: DispatchContext) -> Dispatch:
    heads, sums, partials = op.heads, op.sums, context.partials
    push = HeadNormPush(
        step=context.address("step"),
        qkv=context.address(op.buffer) + op.offset * FLOAT,
        query_weight=context.address_or_none(op.query_weight),
        key_weight=context.address_or_none(op.key_weight),
        query_bias=context.address_or_none(op.query_bias),
        key_bias=context.address_or_none(op.key_bias),
        sums=partials.parity_address(sums.parity) if sums else 0,
        **_quads(heads, context, op.buffer),
        weight_stride=op.weight_stride // QUAD_FLOATS,
        num_sums=partials.num_partials if sums else 0,
        sums_stride=partials.slot_bytes // QUAD,
        is_layer_norm=op.kind == "layer",
        has_weight=op.query_weight is not None,
        has_bias=op.query_bias is not None,
        query_inverse=1 / (sums.query_length if sums else heads.key_length),
        key_inverse=1 / (sums.key_length if sums else heads.key_length),
        epsilon=op.epsilon,
    )
    groups = ceil(heads.num_heads + heads.num_kv_heads, context.subgroups)
    return Dispatch("head_norm", push, (groups, context.program.rows, 1))


def rotate(op: Rotate, context: DispatchContext) -> Dispatch:
    heads = op.heads
    push = RopeRowsPush(
        step=context.address("step"),
        rope=context.address("rope"),
        qkv=context.address("qkv"),
        num_heads=heads.num_heads,
        num_kv_heads=heads.num_kv_heads,
        key_length=heads.key_length,
        query_stride=heads.query_stride,
        qkv_stride=context.stride("qkv"),
        **rotation_members(op.rotation, context),
    )
    pairs = (heads.num_heads + heads.num_kv_heads) * (op.rotation.dimension // 2)
    return Dispatch("rope_rows", push, (ceil(pairs, GROUP_SIZE), context.program.rows, 1))


def rotation_members(rotation: Rotation, context: DispatchContext) -> dict[str, int]:
    """Returns the push constants that describe how heads rotate."""
    return {
        "rope_stride": context.stride("rope"),
        "rope_offset": rotation.offset,
        "rope_dimension": rotation.dimension,
        "rope_start": rotation.start,
        "interleaved": rotation.interleaved,
    }


def _quads(heads: AttentionHeads, context: DispatchContext, buffer: str = "qkv") -> dict[str, int]:
    """Returns the layout of heads, in float4."""
    return {
        "num_heads": heads.num_heads,
        "num_kv_heads": heads.num_kv_heads,
        "head_quads": heads.key_length // QUAD_FLOATS,
        "query_stride": heads.query_stride // QUAD_FLOATS,
        "row_stride": context.quads(buffer),
    }
