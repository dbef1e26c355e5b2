"""Computes with NumPy row by row: sums with norms, quantization, activation functions."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import rank_slice
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops import quantized
from tplaunch.worker.ops.activation_functions import ACTIVATION_FUNCTIONS
from tplaunch.worker.ops.common import Activate, Quantize, SumNorm, SumSlice

Floats = npt.NDArray[np.float32]


def sum_norm(op: SumNorm, state: NumpyState) -> None:
    hidden = _added(op, state)
    if op.rows == "logit_rows":
        hidden = hidden[state.step.logit_rows[: state.step.num_logit_rows]]
    if op.stores_hidden:
        state.rows("hidden")[:, : op.width] = hidden
    output = state.rows(op.output, op.rows)[:, : op.width]
    if op.weight is None:
        output[:] = hidden
        return
    if op.norm == "layer":
        hidden = hidden - hidden.mean(axis=1, keepdims=True)
    np.multiply(_scaled(hidden, op.epsilon), state.vector(op.weight, op.width), out=output)
    if op.bias is not None:
        output += state.vector(op.bias, op.width)


def _added(op: SumNorm, state: NumpyState) -> Floats:
    """Source and addend, all rows."""
    if op.parity is not None:
        num_partials = 1 if op.summed else state.num_partials
        partials = [state.partial(op.parity, slot)[:, : op.width] for slot in range(num_partials)]
        addend = _added_up(partials)
    elif op.addend is not None:
        addend = state.rows(op.addend)[:, : op.width]
    else:
        assert op.source is not None, "neither source nor addend"
        return state.rows(op.source)[:, : op.width]
    return addend if op.source is None else state.rows(op.source)[:, : op.width] + addend


def sum_slice(op: SumSlice, state: NumpyState) -> None:
    num_partials, count = state.num_partials, state.partial(op.parity, 0).size
    own = rank_slice(op.rank, num_partials, count)
    partials = state.partials[op.parity, :num_partials, own]
    partials[0] = _added_up(partials)


def quantize(op: Quantize, state: NumpyState) -> None:
    source, output = (
        state.pairs(name, op.used) if op.used else state.rows(name, op.rows) for name in (op.input, op.output)
    )
    words = quantized.quantize(source[:, : op.columns], op.activations)
    output.view(np.uint32)[:, : words.shape[1]] = words


def activate(op: Activate, state: NumpyState) -> None:
    length = 2 * op.columns if op.gated else op.columns
    result = activated(state.rows("gate_up")[:, :length], op.activation, op.gated)
    if op.divisors is not None:
        result = result / state.vector(op.divisors, op.columns)
    state.rows(op.output)[:, op.output_offset : op.output_offset + op.columns] = result


def activated(product: Floats, activation: str | None, gated: bool) -> Floats:
    """Returns activation(gate) * up of a gated product [rows, gates and as many ups]."""
    gate, up = np.split(product, 2, axis=1) if gated else (product, None)
    if activation is not None:
        gate = ACTIVATION_FUNCTIONS[activation](gate)
    return gate if up is None else gate * up


def _scaled(rows: Floats, epsilon: float) -> Floats:
    """Each row over its root mean square."""
    mean_square = np.einsum("rc,rc->r", rows, rows)[:, None] / np.float32(rows.shape[1])
    scaled: Floats = rows / np.sqrt(mean_square + np.float32(epsilon))
    return scaled


def _added_up(partials: Sequence[Floats] | Floats) -> Floats:
    """Adds up partial sums from left to right."""
    return functools.reduce(np.add, partials)
