"""Checks of exchanges among devices, whose peers' words are there before the kernel begins, and of moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tplaunch.collectives.wire_types import to_bfloat16
from tplaunch.worker.checking import rows
from tplaunch.worker.checking.case import Arrays, Case, Floats, limits_for, random_floats
from tplaunch.worker.checking.check import Check
from tplaunch.worker.checking.rows import NUM_ROWS, NUM_SLOTS, OWN_SLOT, ROWS, padded_rows
from tplaunch.worker.numpy.exchange import words_for
from tplaunch.worker.ops.common import GatherNorm
from tplaunch.worker.ops.exchange import (
    ARENA,
    EXCHANGE,
    EXCHANGE_BYTES,
    WORDS,
    Gather,
    MovePartials,
    words_offset,
)

LENGTH, NUMBER = 352, 10  # of a row; of the first exchange
COPIED = 1e-12  # the error that is allowed: none, as nothing is computed


def gather(op: Gather) -> Gather:
    """The same op, small."""
    return Gather(1, LENGTH if op.row_length else 0, 1)


def check_gather(op: Gather) -> Check:
    rng = np.random.default_rng(9)
    values = padded_rows(rng, NUM_SLOTS, ROWS, LENGTH).reshape(NUM_SLOTS, -1)
    partials = np.zeros((2, NUM_SLOTS, ROWS * LENGTH), np.float32)
    partials[1, OWN_SLOT] = values[OWN_SLOT]
    arrays: Arrays = {"hidden": padded_rows(rng, ROWS, LENGTH), **_peers_words(op.index, values)}

    def read(results: Arrays) -> Arrays:
        """The partial sums, and the words, of which only this rank's change."""
        return {"partials": results["partials"], "words": results[WORDS].view(np.uint32).astype(np.float32)}

    case = Case(
        limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS, partials=partials, write_slot=OWN_SLOT
    )
    return Check(op, case, COPIED, read)


def _peers_words(index: int, values: Floats) -> Arrays:
    """Returns the buffers of an exchange for which the peers have stored their values [ranks, elements]."""
    words = np.zeros(words_offset(1, NUM_SLOTS, NUM_SLOTS), np.uint8)
    for rank in range(NUM_SLOTS):
        if rank != OWN_SLOT:
            place = words[words_offset(index, rank, NUM_SLOTS) :].view(np.uint64)
            place[: values.shape[1]] = words_for(values[rank].view(np.uint32), np.uint32(NUMBER + index))
    exchange = np.zeros(EXCHANGE_BYTES // 4, np.uint32)
    exchange[:2] = NUMBER, 1
    return {WORDS: words, EXCHANGE: exchange}


def gather_norm(op: GatherNorm) -> GatherNorm:
    """The same op, small."""
    return GatherNorm(gather(op.gather), rows.sum_norm(op.norm))


def check_gather_norm(op: GatherNorm) -> Check:
    check = rows.check_sum_norm(op.norm)
    values = check.case.partials[1].copy()
    partials = np.zeros_like(check.case.partials)
    partials[1, OWN_SLOT] = values[OWN_SLOT]
    arrays: Arrays = {**check.case.arrays, **_peers_words(op.gather.index, values)}

    def read(results: Arrays) -> Arrays:
        """All but the partial sums, which nobody reads any more."""
        words = results[WORDS].view(np.uint32).astype(np.float32)
        return {name: values for name, values in results.items() if name != "partials"} | {WORDS: words}

    case = replace(check.case, ops=(op,), arrays=arrays, partials=partials, write_slot=OWN_SLOT)
    return Check(op, case, check.bound, read)


def move(op: MovePartials) -> MovePartials:
    """The same op, small."""
    return replace(op, parity=1, row_length=LENGTH if op.row_length else 0)


def check_move(op: MovePartials) -> Check:
    rng = np.random.default_rng(10)
    shape = (2, NUM_SLOTS, ROWS * LENGTH)
    partials = random_floats(rng, *shape)
    arena = random_floats(rng, *shape)
    if op.wire == "bf16":  # numbers in both halves of its words
        arena.view(np.uint16)[..., : shape[2]] = to_bfloat16(random_floats(rng, *shape))
    arrays: Arrays = {"hidden": padded_rows(rng, ROWS, LENGTH), ARENA: arena.reshape(-1, LENGTH)}

    def read(results: Arrays) -> Arrays:
        """The partial sums and the arena, of which every bit counts."""
        words = results[ARENA].view(np.uint16).astype(np.float32)
        return {"partials": results["partials"], ARENA: words}

    case = Case(
        limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS, partials=partials, write_slot=OWN_SLOT
    )
    return Check(op, case, COPIED, read)
