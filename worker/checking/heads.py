"""Checks of the ops on queries and keys up to the cache: clamped, normalised, rotated, copied, stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tplaunch.worker.checking.case import Arrays, Case, limits_for, random_cache, random_floats
from tplaunch.worker.checking.check import BOUND, FLOAT16_BOUND, INT8_BOUND, Check
from tplaunch.worker.checking.rows import NUM_ROWS, NUM_SLOTS, OFFSET, OWN_SLOT, ROWS
from tplaunch.worker.numpy.cache import NumpyCache
from tplaunch.worker.ops.attention import (
    AttentionHeads,
    Clamp,
    HeadNorm,
    HeadSums,
    RopeCache,
    Rotate,
    Rotation,
    RowSums,
)
from tplaunch.worker.ops.common import Op
from tplaunch.worker.ops.latent import CopyHeads, HeadParts

MAX_HEADS, MAX_KV_HEADS = 5, 2
ROTATION_OFFSET = 4  # in the rope table
BLOCK_LENGTH, BLOCKS_OF_ROW = 16, 3
CACHE_BOUNDS = {"f32": BOUND, "f16": FLOAT16_BOUND, "q8_0": INT8_BOUND}
NUM_ADDED, SQUARES = (100, 60), 200  # elements under the norm of all heads, and about their sum of squares


def small(heads: AttentionHeads) -> AttentionHeads:
    """Few heads, as long as the model's."""
    return replace(
        heads,
        num_heads=min(heads.num_heads, MAX_HEADS),
        num_kv_heads=min(heads.num_kv_heads, MAX_KV_HEADS),
    )


def small_rotation(rotation: Rotation) -> Rotation:
    """Returns a rotation of as much of a head as in the model."""
    return replace(rotation, offset=ROTATION_OFFSET)


def clamp(op: Clamp) -> Clamp:
    """The same op, small."""
    return Clamp(300, min(op.limit, 0.75))


def head_sums(op: HeadSums) -> HeadSums:
    """The same op, small."""
    return replace(op, heads=small(op.heads), parity=1)


def head_norm(op: HeadNorm) -> HeadNorm:
    """The same op, small."""
    return replace(
        op,
        heads=small(op.heads),
        epsilon=1e-6,
        query_weight=op.query_weight and "query weight",
        key_weight=op.key_weight and "key weight",
        query_bias=op.query_bias and "query bias",
        key_bias=op.key_bias and "key bias",
        sums=op.sums and RowSums(1, *NUM_ADDED),
        buffer="qkv",
        offset=4 if op.offset else 0,
    )


def rotate(op: Rotate) -> Rotate:
    """The same op, small."""
    return Rotate(small(op.heads), small_rotation(op.rotation))


def check_in_place(op: Clamp | HeadSums | HeadNorm | Rotate) -> Check:
    """Checks an op that changes qkv in place. Behind the keys lie values, which no op here touches."""
    rng = np.random.default_rng(7)
    heads = AttentionHeads(3, 2, 64, 64) if isinstance(op, Clamp) else op.heads
    weights = max(heads.num_heads, heads.num_kv_heads) * max(
        heads.key_length, op.weight_stride if isinstance(op, HeadNorm) else 0
    )
    rotated = op.rotation.dimension if isinstance(op, Rotate) else 0
    arrays: Arrays = {
        "qkv": 1 + random_floats(rng, ROWS, heads.first_value + 8),
        "rope": random_floats(rng, ROWS, ROTATION_OFFSET + rotated),
        **{name: random_floats(rng, weights) for name in _named_by(op)},
    }
    partials = random_floats(rng, 2, NUM_SLOTS, 4 * ROWS)
    partials[..., 1::2] = np.abs(partials[..., 1::2]) + SQUARES
    limits = limits_for(max_rows=ROWS)
    return Check(op, Case(limits, (op,), arrays, NUM_ROWS, ROWS, partials=partials, write_slot=OWN_SLOT))


def _named_by(op: Op) -> list[str]:
    """Weights and biases of a norm."""
    if not isinstance(op, HeadNorm):
        return []
    names = (op.query_weight, op.key_weight, op.query_bias, op.key_bias)
    return [name for name in names if name is not None]


def rope_cache(op: RopeCache) -> RopeCache:
    """The same op, small."""
    heads, rotation = small(op.heads), small_rotation(op.rotation)
    return replace(
        op,
        key_cache="keys",
        value_cache="keys" if op.value_in_key else "values",
        heads=heads,
        rotation=rotation,
        temperature=None if op.temperature is None else ROTATION_OFFSET + rotation.dimension,
    )


def check_rope_cache(op: RopeCache, kv_type: str) -> Check:
    """Rows of several sequences, whose blocks lie in any order, into a cache that holds something already."""
    rng = np.random.default_rng(8)
    heads, rotated = op.heads, ROTATION_OFFSET + op.rotation.dimension
    tables = rng.permutation(NUM_ROWS * BLOCKS_OF_ROW)
    limits = limits_for(
        num_blocks=tables.size,
        num_window_blocks=tables.size,
        block_length=BLOCK_LENGTH,
        max_sequences=NUM_ROWS,
        max_rows=ROWS,
        kv_type=kv_type,
        context_length=BLOCKS_OF_ROW * BLOCK_LENGTH,
    )
    cells = tables.size * heads.num_kv_heads * BLOCK_LENGTH
    angles = rng.uniform(-10, 10, (ROWS, rotated // 2 + 1))
    qkv_length = heads.first_value + heads.num_kv_heads * op.value_length + OFFSET
    lengths = {"keys": heads.key_length} | ({} if op.value_in_key else {"values": op.value_length})
    arrays: Arrays = {
        "rope": np.stack((np.cos(angles), np.sin(angles)), axis=2).reshape(ROWS, -1).astype(np.float32),
        "qkv": random_floats(rng, ROWS, qkv_length),
        "query": random_floats(rng, ROWS, heads.num_heads * heads.key_length),
        **{name: random_cache(rng, kv_type, cells, length) for name, length in lengths.items()},
    }
    case = Case(
        limits,
        (op,),
        arrays,
        NUM_ROWS,
        ROWS,
        positions=tuple(rng.integers(0, BLOCKS_OF_ROW * BLOCK_LENGTH, NUM_ROWS)),
        table_starts=tuple(range(0, tables.size, BLOCKS_OF_ROW)),
        tables=tuple(tables[::-1] if op.windowed else tables),
        window_tables=tuple(tables if op.windowed else tables[::-1]),
    )

    def read(results: Arrays) -> Arrays:
        """Cells as the numbers that they stand for."""
        blocks = np.arange(limits.num_blocks, dtype=np.uint32)
        cells = {
            name: NumpyCache(results[name].view(np.uint8), limits, heads.num_kv_heads, length).read(
                blocks, limits.num_blocks * BLOCK_LENGTH
            )
            for name, length in lengths.items()
        }
        return {**results, **cells}

    return Check(op, case, CACHE_BOUNDS[kv_type], read)


def copy_heads(op: CopyHeads) -> CopyHeads:
    """The same op, small."""
    return CopyHeads(MAX_HEADS, 70, HeadParts("input", 78, 4), HeadParts("output", 73, OFFSET))


def check_copy_heads(op: CopyHeads) -> Check:
    rng = np.random.default_rng(9)
    arrays: Arrays = {
        place.buffer: random_floats(rng, ROWS, place.offset + op.num_heads * place.stride)
        for place in (op.input, op.output)
    }
    return Check(op, Case(limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS))
