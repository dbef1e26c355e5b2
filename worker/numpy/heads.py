"""Prepares queries and keys with NumPy before they are cached: clamped, normalised, rotated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.attention import (
    HEAD_SUMS,
    AttentionHeads,
    Clamp,
    HeadNorm,
    HeadSums,
    Rotate,
    Rotation,
)

Floats = npt.NDArray[np.float32]


def queries(heads: AttentionHeads, rows: Floats) -> Floats:
    """[rows, heads, key_length], a view."""
    rows = rows[:, : heads.first_key]
    return rows.reshape(len(rows), heads.num_heads, heads.query_stride)[..., : heads.key_length]


def keys(heads: AttentionHeads, rows: Floats) -> Floats:
    """[rows, kv_heads, key_length], a view."""
    rows = rows[:, heads.first_key : heads.first_value]
    return rows.reshape(len(rows), heads.num_kv_heads, heads.key_length)


def clamp(op: Clamp, state: NumpyState) -> None:
    clamped = state.rows("qkv")[:, : op.columns]
    np.clip(clamped, -np.float32(op.limit), np.float32(op.limit), out=clamped)


def head_sums(op: HeadSums, state: NumpyState) -> None:
    rows = state.rows("qkv")
    counted = queries(op.heads, rows), keys(op.heads, rows)[:, int(op.skips_first_key) :]
    sums = [power.sum(axis=(1, 2)) for part in counted for power in (part, np.square(part))]
    state.own_partial(op.parity, HEAD_SUMS)[:] = np.stack(sums, axis=1)


def head_norm(op: HeadNorm, state: NumpyState) -> None:
    heads, rows = op.heads, state.rows(op.buffer)[:, op.offset :]
    sums = state.small_partials(op.sums.parity, HEAD_SUMS).sum(axis=0) if op.sums else None
    kinds = (
        (queries(heads, rows), op.query_weight, op.query_bias, op.sums and op.sums.query_length),
        (keys(heads, rows), op.key_weight, op.key_bias, op.sums and op.sums.key_length),
    )
    for index, (part, weight, bias, count) in enumerate(kinds):
        mean, variance = _own(op, part) if sums is None else _of_sums(op, sums[:, 2 * index :], count or 1)
        normed = (part - mean) / np.sqrt(variance + np.float32(op.epsilon))
        if weight is not None:
            normed = normed * _vectors(op, part, weight, state)
        part[:] = normed if bias is None else normed + _vectors(op, part, bias, state)


def _own(op: HeadNorm, part: Floats) -> tuple[Floats, Floats]:
    """Returns the mean to subtract from each head, and the mean square of the remainder."""
    mean: Floats = part.mean(axis=2, keepdims=True) * np.float32(op.kind == "layer")
    square: Floats = np.square(part - mean)
    return mean, square.mean(axis=2, keepdims=True)


def _of_sums(op: HeadNorm, sums: Floats, count: int) -> tuple[Floats, Floats]:
    """The same of rows of so many elements, by sums and sums of squares [rows, 2...]."""
    mean, square = (sums[:, index, None, None] / np.float32(count) for index in (0, 1))
    mean = mean * np.float32(op.kind == "layer")
    return mean, square - np.square(mean)


def _vectors(op: HeadNorm, part: Floats, name: str, state: NumpyState) -> Floats:
    """Weights or biases, as they go with [rows, heads, length]."""
    num_heads, length = part.shape[1:]
    if not op.weight_stride:
        return state.vector(name, length)
    return state.vector(name, num_heads * op.weight_stride).reshape(num_heads, -1)[:, :length]


def rotate(op: Rotate, state: NumpyState) -> None:
    rows = state.rows("qkv")
    for part in (queries(op.heads, rows), keys(op.heads, rows)):
        part[:] = rotated(part, op.rotation, state)


def rotated(heads: Floats, rotation: Rotation, state: NumpyState) -> Floats:
    """heads [rows, heads, length]; the rope table holds cosines and sines alternately."""
    table = state.rows("rope")[:, None, rotation.offset : rotation.offset + rotation.dimension]
    cosine, sine = table[..., 0::2], table[..., 1::2]
    start, stop = rotation.start, rotation.start + rotation.dimension
    half = start + rotation.dimension // 2
    first = slice(start, stop, 2) if rotation.interleaved else slice(start, half)
    second = slice(start + 1, stop, 2) if rotation.interleaved else slice(half, stop)
    result = heads.copy()
    result[..., first] = heads[..., first] * cosine - heads[..., second] * sine
    result[..., second] = heads[..., first] * sine + heads[..., second] * cosine
    return result
