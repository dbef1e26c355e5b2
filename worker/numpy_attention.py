"""Attention in NumPy: one row over its sequence's keys, a chunk at a time, and the chunks put together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.ops import Attention

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
) -> None:
    """query [heads, key_length], keys and values [kv_heads, keys, length] -> sums [heads, chunks, length]
    and scales [heads, chunks, 2], the softmax's maximum and sum.

    Heads that other ranks hold fill up the groups of a KV head, so that all groups are computed at once.
    """
    own = slice(op.first_head, op.first_head + op.num_heads)
    groups = np.zeros((op.num_kv_heads * op.heads_per_kv_head, op.key_length), np.float32)
    groups[own] = query
    groups *= np.float32(op.scale)
    queries = groups.reshape(op.num_kv_heads, op.heads_per_kv_head, -1).swapaxes(1, 2).copy()
    scores = (keys @ queries).swapaxes(1, 2).copy()  # BLAS is five times slower the other way round
    for chunk in range(sums.shape[1]):
        span = slice(chunk * chunk_length, (chunk + 1) * chunk_length)
        chunk_scores = scores[..., span]
        if not chunk_scores.shape[2]:
            scales[:, chunk] = (EMPTY_MAXIMUM, 0)
            continue
        maximum = chunk_scores.max(axis=2, keepdims=True)
        weight = np.exp(chunk_scores - maximum)
        sums[:, chunk] = (weight @ values[:, span]).reshape(len(groups), -1)[own]
        scales[:, chunk, 0] = maximum.reshape(-1)[own]
        scales[:, chunk, 1] = weight.sum(axis=2).reshape(-1)[own]


def combined(sums: Floats, scales: Floats) -> Floats:
    """sums [rows, heads, chunks, length] and their scales [rows, heads, chunks, 2] -> all rows."""
    attended: Floats
    if sums.shape[2] == 1:
        attended = sums[:, :, 0] / scales[:, :, 0, 1:]
        return attended
    maximum = scales[..., 0].max(axis=2, keepdims=True)
    weight = np.exp(scales[..., 0] - maximum)
    total = (weight * scales[..., 1]).sum(axis=2)
    # A chunk without keys left no sums: what lies there is an older step's.
    kept = np.where(scales[..., 1:] > 0, sums, np.float32(0))
    attended = (weight[..., None] * kept).sum(axis=2) / total[..., None]
    return attended
