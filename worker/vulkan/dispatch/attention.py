"""Dispatches of attention: keys and values into the cache, rows over it, their parts put together."""

from __future__ import annotations

from collections.abc import Collection

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.worker.buffers.step import ATTENTION_VECTORS, LONG_HEAD, attention_vectors
from tplaunch.worker.ops.attention import MATRIX_HEADS, MATRIX_VECTORS, Attention, AttentionCombine, RopeCache
from tplaunch.worker.vulkan.dispatch.context import FLOAT, GROUP_SIZE, DispatchContext, ceil, flags_of
from tplaunch.worker.vulkan.dispatch.heads import rotation_members
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.push_constants.attention import AttentionCombinePush, AttentionPush, RopeCachePush
from tplaunch.worker.vulkan.variants import VECTOR_COUNTS

# Elements of a key that a lane has at most in shaders/attend_teams.slang, and those of a word of float16.
TEAM_LANE, TEAM_WORD = 16, 8
LEAST_LANES = 8  # of a team; with fewer its tiles are longer
NOWHERE = 0xFFFFFFFF  # in a row of the rope table
FINISHES, HAS_SINKS = 1 << 30, 1 << 31  # flags of shaders/attention_vectors.slang


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
    alibi, finish = op.alibi, op.finish
    results, sinks, flags = context.address("attention_scales"), 0, 0
    if finish is not None:
        assert not finish.gated, "attention has no push constants left for gates"
        results = context.address(finish.output) + finish.output_offset * FLOAT
        sinks = context.address_or_none(finish.sinks)
        flags = flags_of({FINISHES: True, HAS_SINKS: finish.sinks is not None})
    push = AttentionPush(
        step=context.address("step"),
        query=context.address("query"),
        **context.caches(op),
        sums=context.address("attention_sums"),
        results=results,
        sinks=sinks,
        **context.paging(op),
        head_counts=_two(op.num_heads, op.num_kv_heads),
        group_heads=_two(op.first_head, op.heads_per_kv_head),
        lengths=_two(op.key_length // 4, op.value_length // 4) | flags,
        output_stride=0 if finish is None else context.stride(finish.output),
        value_stride=_padded_quads(op.key_length if op.value_in_key else op.value_length, context),
        scale=op.scale,
        window=-op.window if op.chunked else op.window,
        softcap=op.softcap,
        alibi=alibi.step if alibi else 0,
        alibi_heads=alibi.first_head | alibi.whole_steps << 16 if alibi else 0,
    )
    family = f"attention_{_shape(op, context)}"
    kernel = family + context.selection.variant(family).suffix
    return Dispatch(kernel, push, _matrix_groups(op, context) if op.activations == "f16" else None)


def _matrix_groups(op: Attention, context: DispatchContext) -> tuple[int, int, int]:
    """Returns the workgroups that a program's rows have; each goes over all keys of its rows."""
    return ceil(context.program.rows * op.heads_per_kv_head, MATRIX_VECTORS), op.num_kv_heads, 1


def _two(low: int, high: int) -> int:
    """Two numbers in one push constant."""
    assert max(low, high) < 1 << 14, f"{low} or {high} is too large"
    return low | high << 16


def _shape(op: Attention, context: DispatchContext) -> str:
    kv_type = context.limits.kv_type
    if op.activations == "f16":
        longest = max(op.key_length, op.value_length)
        return f"matrices_{kv_type}_{next(length for length in MATRIX_HEADS if length >= longest)}"
    if attention_vectors(op.key_length, op.value_length) < ATTENTION_VECTORS:
        return f"long_{kv_type}"
    shape = f"{kv_type}_{_vectors(context.program.rows, op.heads_per_kv_head)}"
    has_teams = fits_teams(op.key_length, op.value_length, kv_type, context.team_lanes)
    return f"teams_{shape}" if has_teams else shape


def fits_teams(key_length: int, value_length: int, kv_type: str, team_lanes: int) -> bool:
    """Tells if a subgroup has the lanes for a key, and words of the cache begin where keys and values do."""
    block = max(TEAM_WORD, KV_TYPES[kv_type].block_elements)
    longest = max(ceil(length, block) * block for length in (key_length, value_length))
    whole_words = key_length % TEAM_WORD == value_length % TEAM_WORD == 0
    return whole_words and longest <= min(LONG_HEAD, team_lanes * TEAM_LANE)


def cuts_short(lengths: Collection[tuple[int, int]], kv_type: str, team_lanes: int) -> bool:
    """Tells if keys of heads of these lengths can be cut shorter; other kernels have tiles of a whole cut."""
    tiles_fit = team_lanes >= LEAST_LANES
    return tiles_fit and all(fits_teams(key, value, kv_type, team_lanes) for key, value in lengths)


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
