"""Dispatches of attention: keys and values into the cache, rows over it, their parts put together."""

from __future__ import annotations

from tplaunch.worker.buffers.step import ATTENTION_VECTORS, attention_vectors
from tplaunch.worker.ops.attention import Attention, AttentionCombine, RopeCache
from tplaunch.worker.vulkan.dispatch.context import FLOAT, GROUP_SIZE, DispatchContext, ceil
from tplaunch.worker.vulkan.dispatch.heads import rotation_members
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.attention import AttentionCombinePush, AttentionPush, RopeCachePush
from tplaunch.worker.vulkan.variants import VECTOR_COUNTS

# Elements of a key that a lane has at most in shaders/attend_teams.slang, and those of a word of float16.
TEAM_LANE, TEAM_WORD = 16, 8
NOWHERE = 0xFFFFFFFF  # in a row of the rope table


def rope_cache(op: RopeCache, context: DispatchContext) -> Dispatch:
    heads = op.heads
    push = RopeCachePush(
        step=context.address("step"),
        rope=context.address("rope"),
        qkv=context.address("qkv"),
        query=context.address("query"),
        **context.caches(op),
        **context.paging(op),
        num_heads=heads.num_heads,
        num_kv_heads=heads.num_kv_heads,
        key_length=heads.key_length,
        value_length=op.value_length,
        query_stride=heads.query_stride,
        qkv_stride=context.stride("qkv"),
        **rotation_members(op.rotation, context),
        temperature=NOWHERE if op.temperature is None else op.temperature,
    )
    pairs = heads.num_heads * heads.key_length // 2
    piece = max(2, context.kv_type.block_elements)  # of a key or a value: shaders/kv_writers.slang
    pieces = heads.num_kv_heads * (ceil(heads.key_length, piece) + ceil(op.value_length, piece))
    groups = (ceil(pairs + pieces, GROUP_SIZE), context.program.rows, 1)
    return Dispatch(f"rope_cache_{context.limits.kv_type}", push, groups)


def attention(op: Attention, context: DispatchContext) -> Dispatch:
    alibi = op.alibi
    push = AttentionPush(
        step=context.address("step"),
        query=context.address("query"),
        **context.caches(op),
        sums=context.address("attention_sums"),
        scales=context.address("attention_scales"),
        **context.paging(op),
        num_heads=op.num_heads,
        num_kv_heads=op.num_kv_heads,
        first_head=op.first_head,
        heads_per_kv_head=op.heads_per_kv_head,
        key_quads=op.key_length // 4,
        value_quads=op.value_length // 4,
        value_stride=_padded_quads(op.key_length if op.value_in_key else op.value_length, context),
        scale=op.scale,
        window=-op.window if op.chunked else op.window,
        softcap=op.softcap,
        alibi=alibi.step if alibi else 0,
        alibi_heads=alibi.first_head | alibi.whole_steps << 16 if alibi else 0,
    )
    family = f"attention_{_shape(op, context)}"
    return Dispatch(family + context.selection.variant(family).suffix, push, None)


def _shape(op: Attention, context: DispatchContext) -> str:
    kv_type = context.limits.kv_type
    if attention_vectors(op.key_length, op.value_length) < ATTENTION_VECTORS:
        return f"long_{kv_type}"
    shape = f"{kv_type}_{_vectors(context.program.rows, op.heads_per_kv_head)}"
    return f"teams_{shape}" if _fits_teams(op, context) else shape


def _fits_teams(op: Attention, context: DispatchContext) -> bool:
    """Tells if a subgroup has the lanes for a key, and words of the cache begin where keys and values do."""
    block = max(TEAM_WORD, context.kv_type.block_elements)
    longest = max(ceil(length, block) * block for length in (op.key_length, op.value_length))
    whole_words = op.key_length % TEAM_WORD == op.value_length % TEAM_WORD == 0
    return whole_words and longest <= context.team_lanes * TEAM_LANE


def attention_combine(op: AttentionCombine, context: DispatchContext) -> Dispatch:
    push = AttentionCombinePush(
        step=context.address("step"),
        sums=context.address("attention_sums"),
        scales=context.address("attention_scales"),
        output=context.address(op.output) + op.output_offset * FLOAT,
        sinks=context.address_or_none(op.sinks),
        gates=context.address("qkv") + op.value_length * FLOAT if op.gated else 0,
        positions=context.layout.positions,
        num_heads=op.num_heads,
        value_quads=op.value_length // 4,
        output_stride=context.stride(op.output),
        has_sinks=op.sinks is not None,
        gate_stride=2 * op.value_length if op.gated else 0,
        gate_row_stride=context.stride("qkv") if op.gated else 0,
    )
    columns = op.num_heads * op.value_length // 4
    return Dispatch("attention_combine", push, (ceil(columns, GROUP_SIZE), context.program.rows, 1))


def _padded_quads(length: int, context: DispatchContext) -> int:
    """Returns the quads of a key or a value in the cache, which fills whole blocks."""
    block = max(4, context.kv_type.block_elements)
    return ceil(length, block) * block // 4


def _vectors(rows: int, heads_per_kv_head: int) -> int:
    """Returns the query vectors of a workgroup of attention: for one row no more than the heads need.

    Never so few that it takes more workgroups than attention_groups in worker/buffers/step.py says.
    """
    groups = ceil(heads_per_kv_head, ATTENTION_VECTORS)
    needed = ceil(heads_per_kv_head, groups) if rows == 1 else ATTENTION_VECTORS
    return next(count for count in VECTOR_COUNTS if count >= needed)
