"""Layers with a recurrent state in NumPy: each sequence's rows one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.worker.buffers.step import NO_SLOT
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.activation_functions import ACTIVATION_FUNCTIONS, logistic
from tplaunch.worker.ops.recurrent import (
    SQUARE_SUMS,
    Convolution,
    GatedNorm,
    Recurrence,
    RecurrentHeads,
    SquareSums,
    UnitNorm,
)

Floats = npt.NDArray[np.float32]
silu = ACTIVATION_FUNCTIONS["silu"]


@dataclass(frozen=True)
class StateRun:
    """The rows of a step that belong to one sequence."""

    rows: slice
    read_slot: int | None  # of the state before it; None where the sequence begins
    write_slot: int


def state_runs(state: NumpyState) -> Iterator[StateRun]:
    step = state.step
    for run in range(step.num_runs):
        first, stop = (int(row) for row in step.run_starts[run : run + 2])
        slot = int(step.read_slots[run])
        yield StateRun(slice(first, stop), None if slot == NO_SLOT else slot, int(step.write_slots[run]))


def _states(state: NumpyState, buffer: str, *shape: int) -> Floats:
    """[slots, *shape]"""
    return state.bytes[buffer].view(np.float32).reshape(-1, *shape)


def _state_before(states: Floats, run: StateRun) -> Floats:
    """A copy of the state that a run begins with; states are [slots, ...]."""
    return np.zeros_like(states[run.write_slot]) if run.read_slot is None else states[run.read_slot].copy()


def convolution(op: Convolution, state: NumpyState) -> None:
    rows = state.bytes[op.weight].view(np.float32).reshape(-1, op.weight_stride)
    weight = rows[: op.channels, : op.kernel].T  # [kernel, channels]
    bias = np.float32(0) if op.bias is None else state.vector(op.bias, op.channels)
    kept = _states(state, op.state, op.kernel - 1, op.channels)
    projected = state.rows("projected")[:, : (3 if op.gated else 1) * op.channels]
    parts = np.split(projected, 3, axis=1) if op.gated else [projected]
    inputs = parts[0] * parts[2] if op.gated else parts[0]
    output = state.rows(op.output)[:, op.output_offset : op.output_offset + op.channels]
    for run in state_runs(state):
        window = np.concatenate((_state_before(kept, run), inputs[run.rows]))
        kept[run.write_slot] = window[len(window) - op.kernel + 1 :]
        sums = window[: len(window) - op.kernel + 1] * weight[0]
        for tap in range(1, op.kernel):  # one after another, however many rows there are
            sums += window[tap : tap + len(sums)] * weight[tap]
        output[run.rows] = parts[1][run.rows] * sums if op.gated else silu(sums + bias)


def unit_norm(op: UnitNorm, state: NumpyState) -> None:
    rows = state.rows("convolved")[:, : op.count * op.length]
    vectors = rows.reshape(len(rows), op.count, op.length)
    squares = np.einsum("rvc,rvc->rv", vectors, vectors)[..., None]
    rows[:] = (vectors / np.sqrt(squares + np.float32(op.epsilon))).reshape(rows.shape)


def recurrence(op: Recurrence, state: NumpyState) -> None:
    heads, num_rows = op.heads, state.num_rows()
    count, projected = heads.count, state.rows("projected")
    query, key, value = _convolved(heads, state)
    own = slice(heads.first, heads.first + count)
    time_steps = (
        projected[:, op.time_offset : op.time_offset + count] + state.vector(op.time_bias, own.stop)[own]
    )
    time_steps = np.logaddexp(np.float32(0), time_steps)  # softplus
    decay = np.exp(_scalars(state, op.decay_rate)[own] * time_steps)
    betas = logistic(projected[:, op.time_offset + count : op.time_offset + 2 * count]) if op.delta else None
    output = np.empty_like(value)
    states = _states(state, op.state, count, heads.state_length, heads.head_length)
    for run in state_runs(state):
        held = _state_before(states, run)
        for row in range(run.rows.start, run.rows.stop):
            held *= decay[row, :, None, None]
            if betas is not None:
                addition = betas[row, :, None] * (value[row] - np.einsum("hkv,hk->hv", held, key[row]))
            else:
                addition = time_steps[row, :, None] * value[row]
            held += key[row, :, :, None] * addition[:, None, :]
            output[row] = np.einsum("hkv,hk->hv", held, query[row])
        states[run.write_slot] = held
    if op.delta:
        output *= np.float32(heads.state_length**-0.5)
    if op.skip is not None:
        output += _scalars(state, op.skip)[own, None] * value
    state.rows("recurrence_output")[:, : count * heads.head_length] = output.reshape(num_rows, -1)


def _convolved(heads: RecurrentHeads, state: NumpyState) -> tuple[Floats, Floats, Floats]:
    """Queries, keys [rows, heads, state_length] and values [rows, heads, head_length] of each head."""
    num_rows, length = state.num_rows(), heads.num_groups * heads.state_length
    rows = state.rows("convolved")
    groups = np.arange(heads.first, heads.first + heads.count) // heads.divisor % heads.modulus
    shape = (num_rows, heads.num_groups, heads.state_length)
    query, key = (rows[:, first : first + length].reshape(shape) for first in (0, length))
    value = rows[:, 2 * length : 2 * length + heads.count * heads.head_length]
    own = groups - heads.first_group
    value = value.reshape(num_rows, heads.count, heads.head_length)
    # Of one layout however many rows there are, for sums go by that.
    return query.take(own, axis=1), key.take(own, axis=1), value


def _scalars(state: NumpyState, name: str) -> Floats:
    """One for each head of the layer."""
    return state.bytes[name].view(np.float32)


def square_sums(op: SquareSums, state: NumpyState) -> None:
    squares = np.square(_gated_values(state, op.num_heads * op.head_length, op.gate_offset))
    by_head = squares.reshape(len(squares), op.num_heads, op.head_length).sum(axis=2)
    groups = np.arange(op.first_head, op.first_head + op.num_heads) // op.heads_per_group
    partial = state.own_partial(op.parity, SQUARE_SUMS)
    for group in range(op.num_groups):
        partial[:, group] = by_head[:, groups == group].sum(axis=1)


def _gated_values(state: NumpyState, length: int, gate_offset: int) -> Floats:
    gate = state.rows("projected")[:, gate_offset : gate_offset + length]
    return state.rows("recurrence_output")[:, :length] * silu(gate)


def gated_norm(op: GatedNorm, state: NumpyState) -> None:
    length = op.num_vectors * op.length
    shape = (state.num_rows(), op.num_vectors, op.length)
    gate = state.rows("projected")[:, op.gate_offset : op.gate_offset + length]
    values = state.rows("recurrence_output")[:, :length]
    vectors = (values * silu(gate) if op.gate_first else values).reshape(shape)
    numbers = np.arange(op.first_vector, op.first_vector + op.num_vectors)
    if op.parity is None:
        squares = np.einsum("rvc,rvc->rv", vectors, vectors)
    else:
        sums = state.small_partials(op.parity, SQUARE_SUMS).sum(axis=0)
        squares = sums[:, numbers // op.vectors_per_group]
    mean_square = squares / np.float32(op.vectors_per_group * op.length)
    normed = vectors / np.sqrt(mean_square + np.float32(op.epsilon))[..., None] * _weights(op, numbers, state)
    result = normed.reshape(shape[0], length)
    output = state.rows("gated")[:, op.output_offset : op.output_offset + length]
    output[:] = result if op.gate_first else result * silu(gate)


def _weights(op: GatedNorm, numbers: npt.NDArray[np.intp], state: NumpyState) -> Floats:
    """[vectors, length]"""
    starts = (numbers // op.vectors_per_group - op.first_group) * op.weight_stride
    starts = starts + numbers % op.vectors_per_group * op.length
    weight: Floats = state.bytes[op.weight].view(np.float32)
    return weight.take(starts[:, None] + np.arange(op.length))
