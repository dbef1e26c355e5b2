"""Attention in NumPy: keys and values into the cache, rows over their sequences' keys, over all at once."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tplaunch.worker.buffers.cuts import parts_of
from tplaunch.worker.numpy.cache import NumpyCache
from tplaunch.worker.numpy.heads import keys, queries, rotated
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.attention import Attention, AttentionCombine, AttentionHeads, RopeCache
from tplaunch.worker.ops.quantized import to_float16

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
EMPTY_MAXIMUM = np.float32(-3e38)  # of a part without keys: finite, so that differences of two are
LARGEST_WEIGHT = np.float32(16384)  # as float16, in place of 1: shaders/attend_matrices.slang


def attend(
    op: Attention, query: Floats, keys: Floats, values: Floats, start_key: int = 0
) -> tuple[Floats, Floats]:
    """query [heads, key_length], keys and values [kv_heads, keys, length] -> sums [heads, length] and scales
    [heads, 2], the softmax's maximum and sum. The last key is the row's own, and the first one is at position
    `start_key`.

    Heads that other ranks hold fill up the groups of a KV head, so that all groups are computed at once.
    """
    own = slice(op.first_head, op.first_head + op.num_heads)
    groups = np.zeros((op.num_kv_heads * op.heads_per_kv_head, op.key_length), np.float32)
    groups[own] = query
    groups *= np.float32(op.scale)
    if op.activations == "f16":
        halves, scales = to_float16(groups)
        groups = halves * scales
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
    maximum = scores.max(axis=2, keepdims=True)
    weight = np.exp(scores - maximum)
    if op.activations == "f16":
        weight = nearest_float16(weight * LARGEST_WEIGHT) / LARGEST_WEIGHT
    sums = (weight @ values[:, first - start_key :]).reshape(len(groups), -1)[own]
    scales = np.concatenate((maximum, weight.sum(axis=2, keepdims=True)), axis=2)
    return sums, scales.reshape(len(groups), 2)[own]


def nearest_float16(values: Floats) -> Floats:
    """Rounds to what float16 holds."""
    return values.astype(np.float16).astype(np.float32)


def first_visible(op: Attention, position: int) -> int:
    """The first key that a row sees."""
    if not op.window:
        return 0
    return position - position % op.window if op.chunked else max(0, position + 1 - op.window)


def combined(sums: Floats, scales: Floats, starts: Integers, sinks: Floats | None = None) -> Floats:
    """sums [slots, heads, length] and scales [slots, heads, 2] of rows whose slots start there -> all rows
    [rows, heads, length]. Sinks [heads] take a part of the softmax."""
    # A part without keys left no sums: what lies there is an older step's. Every row has a part with keys.
    filled = np.flatnonzero(scales[:, 0, 1])
    if filled.size == starts.size:
        total, maximum, weight = sums[filled], scales[filled, :, 0], scales[filled, :, 1]
    else:
        total, maximum, weight = _folded(sums, scales, filled, starts)
    if sinks is not None:
        both = np.maximum(maximum, sinks)
        kept = np.exp(maximum - both)
        total *= kept[..., None]
        weight = weight * kept + np.exp(sinks - both)
    total /= weight[..., None]
    return total


def _folded(
    sums: Floats, scales: Floats, filled: Integers, starts: Integers
) -> tuple[Floats, Floats, Floats]:
    """The parts in these slots of all rows, from left to right: sums, maxima and sums of weights."""
    rows = np.searchsorted(starts, filled, side="right") - 1
    total = np.zeros((starts.size, *sums.shape[1:]), np.float32)
    maximum, weight = np.full(total.shape[:2], EMPTY_MAXIMUM), np.zeros(total.shape[:2], np.float32)
    while filled.size:  # the first part that is left of each row
        own, first = np.unique(rows, return_index=True)
        slots = filled[first]
        both = np.maximum(maximum[own], scales[slots, :, 0])
        kept, added = np.exp(maximum[own] - both), np.exp(scales[slots, :, 0] - both)
        total[own] = total[own] * kept[..., None] + sums[slots] * added[..., None]
        weight[own] = weight[own] * kept + scales[slots, :, 1] * added
        maximum[own] = both
        filled, rows = np.delete(filled, first), np.delete(rows, first)
    return total, maximum, weight


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
    query = rotated(queries(heads, rows), op.rotation, state)
    if op.temperature is not None:
        query *= state.rows("rope")[:, op.temperature, None, None]
    _query(heads, state)[:] = query
    rotated_key = rotated(keys(heads, rows), op.rotation, state)
    key_cache = _cache(state, op.key_cache, op, heads.key_length)
    value = rows[:, heads.first_value : heads.first_value + heads.num_kv_heads * op.value_length]
    value = value.reshape(num_rows, heads.num_kv_heads, op.value_length)
    value_cache = _cache(state, op.value_cache, op, op.value_length) if op.value_length else None
    for row in range(num_rows):
        position = int(state.step.positions[row])
        index, place = divmod(position, state.limits.block_length)
        block = int(_table(state, op, row)[index])
        key_cache.write(block, place, rotated_key[row])
        if value_cache is not None:
            value_cache.write(block, place, value[row])


def _query(op: AttentionHeads | Attention, state: NumpyState) -> Floats:
    """[rows, heads, key_length]; rows lie end to end whatever another layer's have of elements."""
    shape = (state.num_rows(), op.num_heads, op.key_length)
    return state.bytes["query"].view(np.float32)[: math.prod(shape)].reshape(shape)


def _slots(op: Attention | AttentionCombine, state: NumpyState) -> tuple[Floats, Floats]:
    """Sums [slots, heads, value_length] and their (maximum, sum of weights), in all slots of the step."""
    step = state.step
    num_slots = parts_of(step.positions[: state.num_rows()], step.part_length, step.short_cuts).total
    count = num_slots * op.num_heads
    sums = state.bytes["attention_sums"].view(np.float32)[: count * op.value_length]
    scales = state.bytes["attention_scales"].view(np.float32)[: count * 2]
    return sums.reshape(num_slots, op.num_heads, op.value_length), scales.reshape(num_slots, op.num_heads, 2)


def attention(op: Attention, state: NumpyState) -> None:
    """Takes all keys of a row as one part, which goes to its first slot."""
    query = _query(op, state)
    keys = _cache(state, op.key_cache, op, op.key_length)
    values = keys if op.value_in_key else _cache(state, op.value_cache, op, op.value_length)
    sums, scales = _slots(op, state)
    scales[:] = (EMPTY_MAXIMUM, 0)
    block_length = state.limits.block_length
    for first, stop in state.runs:
        positions = state.step.positions[first:stop]
        num_keys = int(positions.max()) + 1
        # What lies before the windows of all rows may be other sequences'.
        first_block = first_visible(op, int(positions.min())) // block_length
        start_key = first_block * block_length
        blocks = _table(state, op, first)[first_block : -(-num_keys // block_length)]
        run_keys = keys.read(blocks, num_keys - start_key)  # [kv_heads, keys, key_length]
        run_values = values.read(blocks, num_keys - start_key)[..., : op.value_length]
        if op.activations == "f16" and state.limits.kv_type != "f16":
            run_keys, run_values = nearest_float16(run_keys), nearest_float16(run_values)
        for row in range(first, stop):
            count, slot = int(state.step.positions[row]) + 1 - start_key, state.step.slot_starts[row]
            row_keys, row_values = run_keys[:, :count], run_values[:, :count]
            sums[slot], scales[slot] = attend(op, query[row], row_keys, row_values, start_key)
    if op.finish is not None:
        attention_combine(op.finish, state)


def attention_combine(op: AttentionCombine, state: NumpyState) -> None:
    sinks = None if op.sinks is None else state.vector(op.sinks, op.num_heads)
    starts = state.step.slot_starts[: state.num_rows()].astype(np.int64)
    attended = combined(*_slots(op, state), starts, sinks)
    if op.gated:
        heads = state.rows("qkv")[:, : 2 * op.num_heads * op.value_length].reshape(*attended.shape[:2], 2, -1)
        attended = attended / (1 + np.exp(-heads[:, :, 1]))
    span = slice(op.output_offset, op.output_offset + op.num_heads * op.value_length)
    state.rows(op.output)[:, span] = attended.reshape(state.num_rows(), -1)
