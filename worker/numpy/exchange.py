"""Exchanges partial sums with NumPy: by words that every rank sees, as shaders/gather_partials.slang does,
and by moving them to the arena and from there, as shaders/move_partials.slang does."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import rank_slice
from tplaunch.collectives.wire_types import to_bfloat16
from tplaunch.worker.numpy.rows import sum_norm
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.common import GatherNorm
from tplaunch.worker.ops.exchange import (
    ARENA,
    EXCHANGE,
    FIRST_NUMBER,
    MAX_ROUNDS,
    WORDS,
    Gather,
    MovePartials,
    words_offset,
)

Words = npt.NDArray[np.uint64]


def gather(op: Gather, state: NumpyState) -> None:
    length = op.row_length or state.buffers["hidden"].row_length
    count, words = state.num_rows() * length, state.bytes[WORDS]
    exchange = state.bytes[EXCHANGE].view(np.uint32)
    number = np.uint32(int(exchange[FIRST_NUMBER]) + op.index)
    num_ranks = state.num_partials
    slots = state.partials[op.parity].view(np.uint32)

    def words_of(rank: int) -> Words:
        return words[words_offset(op.index, rank, num_ranks) :].view(np.uint64)[:count]

    words_of(state.write_slot)[:] = words_for(slots[state.write_slot, :count], number)
    stop = words[:4].view(np.uint32)
    for rank in range(num_ranks):
        if rank != state.write_slot:
            slots[rank, :count] = _taken(words_of(rank), number, int(exchange[MAX_ROUNDS]), stop)


def gather_norm(op: GatherNorm, state: NumpyState) -> None:
    gather(op.gather, state)
    sum_norm(op.norm, state)


def words_for(values: npt.NDArray[np.uint32], number: np.uint32) -> Words:
    """Returns the words that carry the bits of values in an exchange."""
    words: Words = (values + number).astype(np.uint64) << np.uint64(32) | values
    return words


def _taken(
    words: Words, number: np.uint32, max_rounds: int, stop: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint32]:
    """Returns a rank's numbers; once the words have come, or waiting has ended."""
    rounds = 0
    while True:
        found = words.copy()
        values = found.astype(np.uint32)  # the lower half
        if np.array_equal(found, words_for(values, number)):
            return values
        if rounds >= max_rounds or stop[0]:
            stop[0] = 1
            return values
        rounds += 1
        os.sched_yield()


def move_partials(op: MovePartials, state: NumpyState) -> None:
    length = op.row_length or state.buffers["hidden"].row_length
    count = state.num_rows() * length
    arena = state.bytes[ARENA].view(np.float32).reshape(state.partials.shape)[op.parity]
    own = state.partials[op.parity]
    slots = {
        "own": [state.write_slot],
        "peers": [slot for slot in range(state.num_partials) if slot != state.write_slot],
        "all": list(range(state.num_partials)),
        "sum": [0],
    }[op.slots]
    for slot in slots:
        halves = arena[slot].view(np.uint16)
        if op.sent and op.wire == "bf16":
            _widened(to_bfloat16(own[slot, :count]), own[slot, :count])
        for span in _spans(op, state, count):
            there = slice(2 * span.start, span.start + span.stop)  # from the slice's place as float32 on
            if op.wire == "f32":
                target, source = (arena, own) if op.sent else (own, arena)
                target[slot, span] = source[slot, span]
            elif op.sent:
                halves[there] = to_bfloat16(own[slot, span])
            else:
                _widened(halves[there], own[slot, span])


def _spans(op: MovePartials, state: NumpyState, count: int) -> list[slice]:
    """Returns what is moved: all at once, or slices of ranks."""
    if op.span == "all":
        return [slice(0, count)]
    ranks = range(state.num_partials)
    wanted = [rank for rank in ranks if (rank == state.write_slot) == (op.span == "slice")]
    return [rank_slice(rank, state.num_partials, count) for rank in wanted]


def _widened(halves: npt.NDArray[np.uint16], values: npt.NDArray[np.float32]) -> None:
    np.left_shift(halves, 16, out=values.view(np.uint32), dtype=np.uint32)
