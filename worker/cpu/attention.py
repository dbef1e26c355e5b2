"""Records attention over the cache."""

from __future__ import annotations

import numpy as np

from tplaunch.coordinator.kv_types import KV_TYPES
from tplaunch.worker.buffers.cuts import CUT
from tplaunch.worker.buffers.step import PART_LENGTH_WORD, SHORT_CUT_WORDS, StepLayout
from tplaunch.worker.cpu.attention_room import room_bytes, vector_bytes
from tplaunch.worker.cpu.recorder import Recorder
from tplaunch.worker.ops.attention import Attention, AttentionCombine, RopeCache


def attention(op: Attention, recorder: Recorder) -> None:
    """Computes in float32 also where the operation allows float16."""
    keys = cache(recorder, op, op.key_cache, op.key_length)
    values = keys if op.value_in_key else cache(recorder, op, op.value_cache, op.value_length)
    nbytes = room_bytes(op.key_length, op.value_length, CUT)
    slopes = None if op.alibi is None else np.array(op.alibi.slopes(op.num_heads), np.float32)
    recorder.kernel(
        f"attention.attend@{recorder.state.limits.kv_type}",
        **{f"key{suffix}": value for suffix, value in keys.items()},
        **{f"value{suffix}": value for suffix, value in values.items()},
        query=recorder.address("query"),
        num_heads=op.num_heads,
        num_kv_heads=op.num_kv_heads,
        first_head=op.first_head,
        heads_per_kv_head=op.heads_per_kv_head,
        key_length=op.key_length,
        value_length=op.value_length,
        scale=float(op.scale),
        window=op.window,
        chunked=int(op.chunked),
        softcap=float(op.softcap),
        slopes=0 if slopes is None else recorder.constant(slopes),
        **parts(recorder),
        **tables(recorder, op.windowed),
        sums=recorder.address("attention_sums"),
        scales=recorder.address("attention_scales"),
        **recorder.room("attention", nbytes),
    )
    if op.finish is not None:
        combine(op.finish, recorder)


def combine(op: AttentionCombine, recorder: Recorder) -> None:
    gates = op.num_heads and op.gated
    recorder.kernel(
        "combining.combine",
        sums=recorder.address("attention_sums"),
        scales=recorder.address("attention_scales"),
        num_heads=op.num_heads,
        value_length=op.value_length,
        output=recorder.address(op.output, op.output_offset),
        output_stride=recorder.stride(op.output),
        gates=recorder.address("qkv", op.value_length) if gates else 0,
        gates_stride=recorder.stride("qkv") if gates else 0,
        sinks=recorder.vector(op.sinks),
        **parts(recorder),
        **recorder.room("attention", 2 * vector_bytes(op.value_length)),
    )


def cache(recorder: Recorder, op: Attention | RopeCache, name: str, length: int) -> dict[str, int]:
    """Returns the addresses of a cache's planes and the bytes of a cell in the first, by names' endings."""
    limits = recorder.state.limits
    kv_type = KV_TYPES[limits.kv_type]
    num_cells = limits.pool(op.windowed) * op.num_kv_heads * limits.block_length
    start, nbytes = recorder.address(name), kv_type.element_plane_bytes(num_cells, length)
    return {
        "s": start,
        "_scales": start + nbytes if kv_type.scale_bytes else 0,
        "_bytes": kv_type.element_plane_bytes(1, length),
    }


def parts(recorder: Recorder) -> dict[str, int]:
    """Returns the addresses of what a step says of its rows, as kernels name them."""
    layout = StepLayout(recorder.state.limits)
    return {
        "num_rows": recorder.num_rows(),
        "part_length": recorder.address("step", PART_LENGTH_WORD),
        "short_cuts": recorder.address("step", SHORT_CUT_WORDS),
        "positions": recorder.address("step", layout.positions),
        "slot_starts": recorder.address("step", layout.slot_starts),
        "table_starts": recorder.address("step", layout.table_starts),
    }


def tables(recorder: Recorder, windowed: bool) -> dict[str, int]:
    """Returns the address of a pool's block tables, and the positions of a block."""
    layout = StepLayout(recorder.state.limits)
    words = layout.window_tables if windowed else layout.tables
    return {"tables": recorder.address("step", words), "block_length": recorder.state.limits.block_length}
