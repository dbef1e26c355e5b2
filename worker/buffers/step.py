"""The integers that change every step, as one block of 32-bit words that all kernels read.

Layout (words): num_rows, num_logit_rows, keys of a part of attention, number of runs, the three workgroup
counts of the indirect attention dispatch, the first rows whose cuts are no longer half as long as others and
a quarter as long (worker/buffers/cuts.py); then the slot of each row's first part [max_rows],
positions[max_rows], the start of each row's block table within either pool's tables [max_rows],
logit_rows[max_logit_rows]. For recurrent layers follow the runs, each the neighbouring rows of one sequence:
the first row of each and behind the last one the number of rows [num_slots + 1], the slot that each one's
state is read from [num_slots], NO_SLOT for none, and the one it is written to [num_slots]. Last come the
block tables of all seats, which stay from step to step: those of layers without a window and those with
one, [max_sequences, blocks_per_seat] each where its pool has blocks.
shaders/step.slang is the other side of this layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.cuts import ShortCuts

HEADER_WORDS = 9
PART_LENGTH_WORD, NUM_RUNS_WORD = 2, 3
INDIRECT_WORD = 4  # the attention dispatch's workgroup counts start here
SHORT_CUT_WORDS = 7

NO_SLOT = 0xFFFFFFFF  # a state that begins as zeros

ATTENTION_VECTORS = 4  # rows times heads of one KV head that a workgroup computes: shaders/attention.slang
LONG_HEAD, LONG_HEAD_VECTORS = 256, 2  # and of heads with more elements: shaders/attention_long.slang

Words = npt.NDArray[np.uint32]


def attention_vectors(key_length: int, value_length: int) -> int:
    """Vectors that a workgroup of attention has at most."""
    return LONG_HEAD_VECTORS if max(key_length, value_length) > LONG_HEAD else ATTENTION_VECTORS


def attention_groups(
    num_rows: int,
    num_kv_heads: int,
    heads_per_kv_head: int,
    num_parts: int,
    vectors: int = ATTENTION_VECTORS,
) -> tuple[int, int, int]:
    """Workgroups of the attention dispatch."""
    return -(-num_rows * heads_per_kv_head // vectors), num_kv_heads, num_parts


@dataclass(frozen=True)
class StepLayout:
    """The word at which each part of the step buffer starts."""

    limits: Limits

    @property
    def slot_starts(self) -> int:
        return HEADER_WORDS

    @property
    def positions(self) -> int:
        return self.slot_starts + self.limits.max_rows

    @property
    def table_starts(self) -> int:
        return self.positions + self.limits.max_rows

    @property
    def logit_rows(self) -> int:
        return self.table_starts + self.limits.max_rows

    @property
    def run_starts(self) -> int:
        return self.logit_rows + self.limits.max_logit_rows

    @property
    def read_slots(self) -> int:
        return self.run_starts + self.limits.num_slots + 1

    @property
    def write_slots(self) -> int:
        return self.read_slots + self.limits.num_slots

    @property
    def tables(self) -> int:
        return self.write_slots + self.limits.num_slots

    @property
    def window_tables(self) -> int:
        return self.tables + self.table_words(windowed=False)

    @property
    def num_words(self) -> int:
        return self.window_tables + self.table_words(windowed=True)

    def table_words(self, windowed: bool) -> int:
        """Entries of all seats' block tables of a pool."""
        return self.limits.max_sequences * self.limits.blocks_per_seat if self.limits.pool(windowed) else 0


class StepView:
    """The parts of a step buffer, as arrays that share its memory."""

    def __init__(self, words: Words, layout: StepLayout) -> None:
        limits = layout.limits
        self.header = words[:HEADER_WORDS]
        self.slot_starts = words[layout.slot_starts :][: limits.max_rows]
        self.positions = words[layout.positions :][: limits.max_rows]
        self.table_starts = words[layout.table_starts :][: limits.max_rows]
        self.logit_rows = words[layout.logit_rows :][: limits.max_logit_rows]
        self.run_starts = words[layout.run_starts :][: limits.num_slots + 1]
        self.read_slots = words[layout.read_slots :][: limits.num_slots]
        self.write_slots = words[layout.write_slots :][: limits.num_slots]
        self.tables = words[layout.tables :][: layout.table_words(windowed=False)]
        self.window_tables = words[layout.window_tables :][: layout.table_words(windowed=True)]

    @property
    def num_rows(self) -> int:
        return int(self.header[0])

    @property
    def num_logit_rows(self) -> int:
        return int(self.header[1])

    @property
    def part_length(self) -> int:
        return int(self.header[PART_LENGTH_WORD])

    @property
    def short_cuts(self) -> ShortCuts:
        half, quarter = self.header[SHORT_CUT_WORDS : SHORT_CUT_WORDS + 2].tolist()
        return ShortCuts(half, quarter)

    @property
    def num_runs(self) -> int:
        return int(self.header[NUM_RUNS_WORD])
