"""Checks of exchanges among devices: the peers' words are there before the kernel begins."""

from __future__ import annotations

import numpy as np

from tplaunch.worker.checking.case import Arrays, Case, limits_for
from tplaunch.worker.checking.check import Check
from tplaunch.worker.checking.rows import NUM_ROWS, NUM_SLOTS, OWN_SLOT, ROWS, padded_rows
from tplaunch.worker.ops.exchange import EXCHANGE, EXCHANGE_BYTES, WORDS, Gather, words_offset

LENGTH, NUMBER = 352, 10  # of a row; of the first exchange


def gather(op: Gather) -> Gather:
    """The same op, small."""
    return Gather(1, LENGTH if op.row_length else 0, 1)


def check_gather(op: Gather) -> Check:
    rng = np.random.default_rng(9)
    values = padded_rows(rng, NUM_SLOTS, ROWS, LENGTH).reshape(NUM_SLOTS, -1)
    partials = np.zeros((2, NUM_SLOTS, ROWS * LENGTH), np.float32)
    partials[1, OWN_SLOT] = values[OWN_SLOT]
    words = np.zeros(words_offset(1, NUM_SLOTS, NUM_SLOTS), np.uint8)
    for rank in range(NUM_SLOTS):
        if rank != OWN_SLOT:
            place = words[words_offset(op.index, rank, NUM_SLOTS) :].view(np.uint64)
            place[: values.shape[1]] = np.uint64(NUMBER + op.index) << np.uint64(32) | values[rank].view(
                np.uint32
            )
    exchange = np.zeros(EXCHANGE_BYTES // 4, np.uint32)
    exchange[:2] = NUMBER, 1
    arrays: Arrays = {"hidden": padded_rows(rng, ROWS, LENGTH), WORDS: words, EXCHANGE: exchange}

    def read(results: Arrays) -> Arrays:
        """The partial sums, and the words, of which only this rank's change."""
        return {"partials": results["partials"], "words": results[WORDS].view(np.uint32).astype(np.float32)}

    case = Case(
        limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS, partials=partials, write_slot=OWN_SLOT
    )
    return Check(op, case, 0.0, read)
