"""Records what becomes of queries and keys before attention, up to the cache."""

from __future__ import annotations

from tplaunch.worker.cpu.attention import cache, parts, tables
from tplaunch.worker.cpu.attention_room import vector_bytes
from tplaunch.worker.cpu.recorder import Recorder
from tplaunch.worker.ops.attention import (
    AttentionHeads,
    Clamp,
    HeadNorm,
    HeadSums,
    RopeCache,
    Rotate,
    Rotation,
)
from tplaunch.worker.ops.latent import CopyHeads


def clamp(op: Clamp, recorder: Recorder) -> None:
    recorder.kernel(
        "heads.clamp",
        rows=recorder.address("qkv"),
        stride=recorder.stride("qkv"),
        columns=op.columns,
        limit=float(op.limit),
        num_rows=recorder.num_rows(),
    )


def head_sums(op: HeadSums, recorder: Recorder) -> None:
    recorder.kernel(
        "heads.head_sums",
        rows=recorder.address("qkv"),
        stride=recorder.stride("qkv"),
        **_layout(op.heads),
        skipped=int(op.skips_first_key),
        output=recorder.slot(op.parity),
        num_rows=recorder.num_rows(),
    )


def head_norm(op: HeadNorm, recorder: Recorder) -> None:
    state, sums = recorder.state, op.sums
    slots = state.partials[sums.parity] if sums is not None else None
    recorder.kernel(
        "heads.head_norm",
        rows=recorder.address(op.buffer, op.offset),
        stride=recorder.stride(op.buffer),
        **_layout(op.heads),
        query_weight=recorder.vector(op.query_weight),
        query_bias=recorder.vector(op.query_bias),
        key_weight=recorder.vector(op.key_weight),
        key_bias=recorder.vector(op.key_bias),
        weight_bytes=4 * op.weight_stride,
        is_layer=int(op.kind == "layer"),
        epsilon=float(op.epsilon),
        sums=0 if slots is None else int(slots.ctypes.data),
        sums_stride=0 if slots is None else slots.strides[0],
        num_sums=0 if slots is None else state.num_partials,
        query_count=sums.query_length if sums is not None else 0,
        key_count=sums.key_length if sums is not None else 0,
        num_rows=recorder.num_rows(),
    )


def rotate(op: Rotate, recorder: Recorder) -> None:
    recorder.kernel(
        "heads.rotate",
        rows=recorder.address("qkv"),
        stride=recorder.stride("qkv"),
        **_layout(op.heads),
        **_rotation(op.rotation, recorder),
        num_rows=recorder.num_rows(),
    )


def rope_cache(op: RopeCache, recorder: Recorder) -> None:
    heads, limits = op.heads, recorder.state.limits
    keys = cache(recorder, op, op.key_cache, heads.key_length)
    values = keys if op.value_in_key else cache(recorder, op, op.value_cache, op.value_length)
    step = parts(recorder)
    recorder.kernel(
        f"caching.write@{limits.kv_type}",
        **{f"key{suffix}": value for suffix, value in keys.items()},
        **{f"value{suffix}": value for suffix, value in values.items()},
        rows=recorder.address("qkv"),
        stride=recorder.stride("qkv"),
        **_layout(heads),
        value_length=op.value_length,
        first_value=4 * heads.first_value,
        **_rotation(op.rotation, recorder),
        temperatures=0 if op.temperature is None else recorder.address("rope", op.temperature),
        query=recorder.address("query"),
        **{name: step[name] for name in ("num_rows", "positions", "table_starts")},
        **tables(recorder, op.windowed),
        **recorder.room("attention", vector_bytes(heads.key_length)),
    )


def copy_heads(op: CopyHeads, recorder: Recorder) -> None:
    recorder.kernel(
        "heads.copy_heads",
        source=recorder.address(op.input.buffer, op.input.offset),
        source_row=recorder.stride(op.input.buffer),
        source_head=4 * op.input.stride,
        target=recorder.address(op.output.buffer, op.output.offset),
        target_row=recorder.stride(op.output.buffer),
        target_head=4 * op.output.stride,
        num_heads=op.num_heads,
        length=op.length,
        num_rows=recorder.num_rows(),
    )


def _layout(heads: AttentionHeads) -> dict[str, int]:
    """Returns where queries and keys lie in a row."""
    return {
        "num_heads": heads.num_heads,
        "query_bytes": 4 * heads.query_stride,
        "num_kv_heads": heads.num_kv_heads,
        "key_length": heads.key_length,
        "first_key": 4 * heads.first_key,
    }


def _rotation(rotation: Rotation, recorder: Recorder) -> dict[str, int]:
    """Returns what rotates, and the angles' table."""
    return {
        "table": recorder.address("rope", rotation.offset),
        "table_stride": recorder.stride("rope"),
        "start": rotation.start,
        "dimension": rotation.dimension,
        "interleaved": int(rotation.interleaved),
    }
