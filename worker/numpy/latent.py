"""Computes latent attention with NumPy: each head's own products, and parts of heads copied."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.worker.numpy.by_row import by_row
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.latent import CopyHeads, HeadParts, HeadProducts

Floats = npt.NDArray[np.float32]


def head_products(op: HeadProducts, state: NumpyState) -> None:
    matrices = state.matrices[op.matrix.name].reshape(op.num_heads, op.length, -1)
    for head in range(op.num_heads):
        source = _part(op.input, state, head, op.matrix.columns)
        matrix = matrices[head, :, : source.shape[1]]  # beyond the row's end weights are zero
        _part(op.output, state, head, op.length)[:] = by_row(source, matrix)


def copy_heads(op: CopyHeads, state: NumpyState) -> None:
    for head in range(op.num_heads):
        _part(op.output, state, head, op.length)[:] = _part(op.input, state, head, op.length)


def _part(place: HeadParts, state: NumpyState, head: int, length: int) -> Floats:
    """A head's part of all rows, a view."""
    first = place.offset + head * place.stride
    return state.rows(place.buffer)[:, first : first + length]
