"""Attention in NumPy: keys and values into the cache, rows over their sequences' keys, a chunk at a time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tplaunch.worker.numpy.cache import NumpyCache
from tplaunch.worker.numpy.heads import keys, queries, turned
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.attention import Attention, AttentionCombine, Heads, RopeCache

Floats = npt.NDArray[np.float32]
EMPTY_MAXIMUM = np.float32(-3e38)  # of a chunk without keys: finite, so that differences of two are


def attend(
    op: Attention,
    query: Floats,
    keys: Floats,
    values: Floats,
    chunk_length: int,
    sums: Floats,
    scales: Floats,
    start_key: int = 0,
) -> None:
    """query [heads, key_length], keys and values [kv_heads, keys, length] -> sums [heads, chunks, length]
    and scales [heads, chunks, 2], the softmax's maximum and sum. The last key is the row's own, and the
    first one is at position `start_key`.

    Heads that other ranks hold fill up the groups of a KV head, so that all groups are computed at once.
    """
    own = slice(op.first_head, op.first_head + op.num_heads)
    groups = np.zeros((op.num_kv_heads * op.heads_per_kv_head, op.key_length), np.float32)
    groups[own] = query
    groups *= np.float32(op.scale)
    queries = groups.reshape(op.num_kv_heads, op.heads_per_kv_head, -1).swapaxes(1, 2).copy()
    num_keys = start_key + keys.shape[1]
    first = first_visible(op, num_keys - 1)
    # BLAS is five times slower the other way round.
    scores = (keys[:, first - start_key :] @ queries).swapaxes(1, 2).copy()
    if op.softcap:
        scores = np.float32(op.softcap) * np.tanh(scores / np.float32(op.softcap))
    if op.alibi is not None:
        slopes = np.zeros(len(groups), np.float32)
        slopes[own] = op.alibi.slopes(op.num_heads)
        distances = np.arange(first - num_keys + 1, 1, dtype=np.float32)
        scores += slopes.reshape(op.num_kv_heads, -1, 1) * distances
    for chunk in range(sums.shape[1]):
        start, stop = (max(first, edge * chunk_length) for edge in (chunk, chunk + 1))
        chunk_scores = scores[..., start - first : stop - first]
        if not chunk_scores.shape[2]:
            scales[:, chunk] = (EMPTY_MAXIMUM, 0)
            continue
        maximum = chunk_scores.max(axis=2, keepdims=True)
        weight = np.exp(chunk_scores - maximum)
        sums[:, chunk] = (weight @ values[:, start - start_key : stop - start_key]).reshape(len(groups), -1)[
            own
        ]
        scales[:, chunk, 0] = maximum.reshape(-1)[own]
        scales[:, chunk, 1] = weight.sum(axis=2).reshape(-1)[own]


def first_visible(op: Attention, position: int) -> int:
    """The first key that a row sees."""
    if not op.window:
        return 0
    return position - position % op.window if op.chunked else max(0, position + 1 - op.window)


def combined(sums: Floats, scales: Floats, sinks: Floats | None = None) -> Floats:
    """sums [rows, heads, chunks, length] and their scales [rows, heads, chunks, 2] -> all rows. Sinks [heads]
    take a part of the softmax."""
    attended: Floats
    if sums.shape[2] == 1 and sinks is None:
        attended = sums[:, :, 0] / scales[:, :, 0, 1:]
        return attended
    maximum = scales[..., 0].max(axis=2, keepdims=True)
    if sinks is not None:
        maximum = np.maximum(maximum, sinks[:, None])
    weight: Floats = np.exp(scales[..., 0] - maximum)
    total = (weight * scales[..., 1]).sum(axis=2)
    if sinks is not None:
        total += np.exp(sinks - maximum[..., 0])
    # A chunk without keys left no sums: what lies there is an older step's.
    kept = np.where(scales[..., 1:] > 0, sums, np.float32(0))
    attended = (weight[..., None] * kept).sum(axis=2) / total[..., None]
    return attended


def _cache(state: NumpyState, name: str, op: RopeCache | Attention, length: int) -> NumpyCache:
    """One layer's keys or values."""
    if name not in state.caches:
        data = state.bytes[name]
        state.caches[name] = NumpyCache(data, state.limits, op.num_kv_heads, length, op.windowed)
    return state.caches[name]


def _table(state: NumpyState, op: RopeCache | Attention, row: int) -> npt.NDArray[np.uint32]:
    """The block table of a row's sequence, and what lies behind it."""
    tables = state.step.window_tables if op.windowed else state.step.tables
    return tables[int(state.step.table_starts[row]) :]


def rope_cache(op: RopeCache, state: NumpyState) -> None:
    heads, num_rows = op.heads, state.num_rows()
    rows = state.rows("qkv")
    query = turned(queries(heads, rows), op.turn, state)
    if op.temperature is not None:
        query *= state.rows("rope")[:, op.temperature, None, None]
    _query(heads, state)[:] = query
    turned_key = turned(keys(heads, rows), op.turn, state)
    key_cache = _cache(state, op.key_cache, op, heads.key_length)
    value = rows[:, heads.first_value : heads.first_value + heads.num_kv_heads * op.value_length]
    value = value.reshape(num_rows, heads.num_kv_heads, op.value_length)
    value_cache = _cache(state, op.value_cache, op, op.value_length) if op.value_length else None
    for row in range(num_rows):
        position = int(state.step.positions[row])
        index, place = divmod(position, state.limits.block_length)
        block = int(_table(state, op, row)[index])
        key_cache.write(block, place, turned_key[row])
        if value_cache is not None:
            value_cache.write(block, place, value[row])


def _query(op: Heads | Attention, state: NumpyState) -> Floats:
    """[rows, heads, key_length]; rows lie end to end whatever another layer's have of elements."""
    shape = (state.num_rows(), op.num_heads, op.key_length)
    return state.bytes["query"].view(np.float32)[: math.prod(shape)].reshape(shape)


def _slots(op: Attention | AttentionCombine, state: NumpyState) -> tuple[Floats, Floats]:
    """Sums [rows, heads, chunks, value_length] and their (maximum, sum of weights)."""
    shape = (state.num_rows(), op.num_heads, state.step.num_chunks)
    count = math.prod(shape)
    sums = state.bytes["attention_sums"].view(np.float32)[: count * op.value_length]
    scales = state.bytes["attention_scales"].view(np.float32)[: count * 2]
    return sums.reshape(*shape, op.value_length), scales.reshape(*shape, 2)


def attention(op: Attention, state: NumpyState) -> None:
    query = _query(op, state)
    keys = _cache(state, op.key_cache, op, op.key_length)
    values = keys if op.value_in_key else _cache(state, op.value_cache, op, op.value_length)
    sums, scales = _slots(op, state)
    length, block_length = state.step.chunk_length, state.limits.block_length
    for first, stop in state.runs:
        positions = state.step.positions[first:stop]
        num_keys = int(positions.max()) + 1
        # What lies before the windows of all rows may be other sequences'.
        first_block = first_visible(op, int(positions.min())) // block_length
        start_key = first_block * block_length
        blocks = _table(state, op, first)[first_block : -(-num_keys // block_length)]
        run_keys = keys.read(blocks, num_keys - start_key)  # [kv_heads, keys, key_length]
        run_values = values.read(blocks, num_keys - start_key)[..., : op.value_length]
        for row in range(first, stop):
            count = int(state.step.positions[row]) + 1 - start_key
            row_keys, row_values = run_keys[:, :count], run_values[:, :count]
            attend(op, query[row], row_keys, row_values, length, sums[row], scales[row], start_key)


def attention_combine(op: AttentionCombine, state: NumpyState) -> None:
    sinks = None if op.sinks is None else state.vector(op.sinks, op.num_heads)
    attended = combined(*_slots(op, state), sinks)
    if op.gated:
        heads = state.rows("qkv")[:, : 2 * op.num_heads * op.value_length].reshape(*attended.shape[:2], 2, -1)
        attended = attended / (1 + np.exp(-heads[:, :, 1]))
    span = slice(op.output_offset, op.output_offset + op.num_heads * op.value_length)
    state.rows(op.output)[:, span] = attended.reshape(state.num_rows(), -1)
