"""Checks of layers with a recurrent state: they begin, go on in place, or leave the state they read."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from tplaunch.worker.checking.case import Arrays, Case, Floats, limits_for, random_floats
from tplaunch.worker.checking.check import Check
from tplaunch.worker.checking.rows import NUM_SLOTS, OWN_SLOT, WIDTH
from tplaunch.worker.ops.common import Op
from tplaunch.worker.ops.recurrent import (
    SQUARE_SUMS,
    Convolution,
    GatedNorm,
    Recurrence,
    RecurrentHeads,
    SquareSums,
    UnitNorm,
)

LENGTHS = (7, 3, 2)  # rows of each sequence
READ_SLOTS, WRITE_SLOTS = (None, 0, 3), (2, 0, 1)
NUM_ROWS, ROWS, NUM_STATES = sum(LENGTHS), 16, 4
CHANNELS, NUM_VECTORS, NUM_HEADS = 150, 5, 4
GATE_OFFSET, SURPLUS = 4, 3


def _check(op: Op, arrays: Arrays, partials: Floats | None = None) -> Check:
    case = Case(
        limits_for(max_rows=ROWS, num_slots=NUM_STATES),
        (op,),
        arrays,
        NUM_ROWS,
        ROWS,
        run_starts=(0, *itertools.accumulate(LENGTHS)),
        read_slots=READ_SLOTS,
        write_slots=WRITE_SLOTS,
        write_slot=OWN_SLOT,
        partials=np.zeros((2, NUM_SLOTS, 4), np.float32) if partials is None else partials,
    )
    return Check(op, case)


def convolution(op: Convolution) -> Convolution:
    """The same op, small."""
    return replace(
        op,
        weight="weight",
        bias=op.bias and "bias",
        state="state",
        output="output",
        output_offset=SURPLUS,
        channels=CHANNELS,
    )


def check_convolution(op: Convolution) -> Check:
    rng = np.random.default_rng(18)
    return _check(
        op,
        {
            "projected": random_floats(rng, ROWS, 3 * CHANNELS + 2),
            "weight": random_floats(rng, CHANNELS, op.weight_stride),
            "bias": random_floats(rng, CHANNELS),
            "state": random_floats(rng, NUM_STATES, op.kernel - 1, CHANNELS),
            "output": random_floats(rng, ROWS, CHANNELS + 5),
        },
    )


def unit_norm(op: UnitNorm) -> UnitNorm:
    """The same op, small."""
    return replace(op, count=NUM_VECTORS, epsilon=1e-6)


def check_unit_norm(op: UnitNorm) -> Check:
    rng = np.random.default_rng(19)
    return _check(op, {"convolved": random_floats(rng, ROWS, op.count * op.length + 7)})


def recurrence(op: Recurrence) -> Recurrence:
    """The same op with few heads, as long as the model's."""
    heads = op.heads
    first, count = min(heads.first, NUM_HEADS), min(heads.count, NUM_HEADS)
    groups = [head // heads.divisor % heads.modulus for head in range(first, first + count)]
    num_groups = max(groups) - min(groups) + 1
    held = RecurrentHeads(
        count,
        first,
        heads.divisor,
        heads.modulus,
        num_groups,
        min(groups),
        heads.head_length,
        heads.state_length,
    )
    return replace(
        op,
        heads=held,
        decay_rate="decay_rate",
        time_bias="time_bias",
        skip=op.skip and "skip",
        state="state",
        time_offset=GATE_OFFSET,
    )


def check_recurrence(op: Recurrence) -> Check:
    """Keys and queries of unit length, as the delta rule needs them to stay in bounds."""
    rng, heads = np.random.default_rng(20), op.heads
    keys = random_floats(rng, ROWS, 2 * heads.num_groups, heads.state_length)
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    values = random_floats(rng, ROWS, heads.count * heads.head_length + SURPLUS)
    num_heads = heads.first + heads.count
    return _check(
        op,
        {
            "projected": random_floats(rng, ROWS, op.time_offset + 2 * heads.count + 1),
            "convolved": np.concatenate((keys.reshape(ROWS, -1), values), axis=1),
            "decay_rate": -rng.uniform(0.01, 1, num_heads).astype(np.float32),
            "time_bias": random_floats(rng, num_heads),
            "skip": random_floats(rng, num_heads),
            "state": random_floats(rng, NUM_STATES, heads.count, heads.state_length, heads.head_length),
            "recurrence_output": random_floats(rng, ROWS, heads.count * heads.head_length + 2),
        },
    )


def square_sums(op: SquareSums) -> SquareSums:
    """The same op, small: heads of three groups."""
    return SquareSums(
        num_heads=NUM_VECTORS,
        first_head=1,
        head_length=op.head_length,
        heads_per_group=2,
        num_groups=3,
        gate_offset=GATE_OFFSET,
        parity=1,
    )


def check_square_sums(op: SquareSums) -> Check:
    rng, length = np.random.default_rng(21), op.num_heads * op.head_length
    arrays: Arrays = {
        "recurrence_output": random_floats(rng, ROWS, length),
        "projected": random_floats(rng, ROWS, GATE_OFFSET + length),
    }
    return _check(op, arrays, random_floats(rng, 2, NUM_SLOTS, ROWS * SQUARE_SUMS))


def gated_norm(op: GatedNorm) -> GatedNorm:
    """The same op, small: vectors that are groups, or parts of them."""
    per_group, length = (1 if op.parity is None else 2), min(op.length, WIDTH)
    return replace(
        op,
        weight="weight",
        weight_stride=per_group * length if op.weight_stride else 0,
        num_vectors=NUM_VECTORS,
        first_vector=1,
        length=length,
        vectors_per_group=per_group,
        gate_offset=GATE_OFFSET,
        output_offset=SURPLUS,
        parity=None if op.parity is None else 1,
    )


def check_gated_norm(op: GatedNorm) -> Check:
    rng, length = np.random.default_rng(22), op.num_vectors * op.length
    arrays: Arrays = {
        "recurrence_output": random_floats(rng, ROWS, length),
        "projected": 2 * random_floats(rng, ROWS, GATE_OFFSET + length),
        "weight": random_floats(rng, (op.num_vectors + 1) * op.length),
        "gated": random_floats(rng, ROWS, SURPLUS + length),
    }
    sums: Floats = np.abs(random_floats(rng, 2, NUM_SLOTS, ROWS * SQUARE_SUMS)) + np.float32(9)
    return _check(op, arrays, sums)
