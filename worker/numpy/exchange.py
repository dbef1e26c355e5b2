"""Exchanges partial sums by words that every rank sees, with NumPy: what shaders/gather_partials.slang
does."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops.exchange import EXCHANGE, FIRST_NUMBER, MAX_ROUNDS, WORDS, Gather, words_offset

Words = npt.NDArray[np.uint64]


def gather(op: Gather, state: NumpyState) -> None:
    length = op.row_length or state.buffers["hidden"].row_length
    count, words = state.num_rows() * length, state.bytes[WORDS]
    exchange = state.bytes[EXCHANGE].view(np.uint32)
    number = np.uint64(int(exchange[FIRST_NUMBER]) + op.index)
    num_ranks = state.num_partials
    slots = state.partials[op.parity].view(np.uint32)

    def words_of(rank: int) -> Words:
        return words[words_offset(op.index, rank, num_ranks) :].view(np.uint64)[:count]

    words_of(state.write_slot)[:] = number << np.uint64(32) | slots[state.write_slot, :count]
    stop = words[:4].view(np.uint32)
    for rank in range(num_ranks):
        if rank != state.write_slot:
            slots[rank, :count] = _taken(words_of(rank), number, int(exchange[MAX_ROUNDS]), stop)


def _taken(words: Words, number: np.uint64, max_rounds: int, stop: npt.NDArray[np.uint32]) -> Words:
    """Returns a rank's numbers; once the words have come, or waiting has ended."""
    rounds = 0
    while not np.all(words >> np.uint64(32) == number):
        if rounds >= max_rounds or stop[0]:
            stop[0] = 1
            break
        rounds += 1
        os.sched_yield()
    taken: Words = (words & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return taken
