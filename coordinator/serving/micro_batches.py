"""Chooses how many sequences decode together in a step of several stages, by the measured times of steps.

Cut into more steps, sequences keep all stages at work; left together, they share the reading of the weights.
Which of both weighs more depends on devices, kernels and rows: a step of two rows may take a device as long
as one of four. Pure arithmetic: the times come from outside.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import deque
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

# Steps of a size that count: the last ones but the first, which has its program built. So many make it known.
NUM_COUNTED, NUM_NEEDED = 5, 2
MAX_AGE = 512  # steps after which a size is measured again, if it may be better: contexts grow
STEPS_A_STAGE = 16  # of prompts, so that filling and emptying the stages costs little
NO_BOUND = sys.maxsize  # of row keys
MARGIN = 0.97  # of the usual cut's time: another cut must be quicker than that to be taken


@dataclass(frozen=True)
class Cut:
    """Sequences that decode, dealt out over steps."""

    num_sequences: int
    rows: int  # of each step, but the last one

    @property
    def num_steps(self) -> int:
        return -(-self.num_sequences // max(1, self.rows))

    @property
    def last_rows(self) -> int:
        return self.num_sequences - (self.num_steps - 1) * self.rows


class MicroBatches:
    """The times of steps that decode, by their rows, and the best cut for any number of sequences."""

    def __init__(self, num_stages: int, max_rows: int = sys.maxsize) -> None:
        """max_rows: that a step can decode."""
        self.num_stages, self._max_rows = num_stages, max_rows
        self.least_prompt_rows = 64  # of a step, where there are as many; known once ranks are loaded
        self.most_row_keys = NO_BOUND  # of a step's prompts: rows, times keys that each sees; known then, too
        self._taken: dict[int, deque[SequenceOf[float]]] = {}  # by bucket; seconds of each stage
        self._known: dict[int, SequenceOf[float]] = {}  # medians of those of which there are enough
        self._last: dict[int, int] = {}  # by bucket: the number of the step that was measured last
        self._num_noted = 0

    def note(self, num_rows: int, seconds: SequenceOf[float]) -> None:
        """Takes a step that decoded so many rows, and how long each stage worked on it, without waiting."""
        if not all(second > 0 for second in seconds):  # ranks that tell no times
            return
        self._num_noted += 1
        for bucket in [one for one, last in self._last.items() if self._num_noted - last > MAX_AGE]:
            del self._taken[bucket], self._last[bucket]
            self._known.pop(bucket, None)
        bucket = _bucket(num_rows)
        self._last[bucket] = self._num_noted
        if bucket not in self._taken:
            self._taken[bucket] = deque(maxlen=NUM_COUNTED)
            return
        taken = self._taken[bucket]
        taken.append(seconds)
        if len(taken) >= NUM_NEEDED:
            self._known[bucket] = [statistics.median(stage) for stage in zip(*taken, strict=True)]

    def prompt_rows(self, num_tokens: int) -> int:
        """Returns the rows of prompts that a step has when so many are to come, with several stages."""
        return max(self.least_prompt_rows, -(-num_tokens // (STEPS_A_STAGE * self.num_stages)))

    def rows_within(self, start: int, row_keys: int) -> int:
        """Returns the rows of a prompt from a position on that count no more than so many row keys.

        One at least where that is all that a step may have: each row has to be computed some time.
        """
        rows = int((math.sqrt(start * start + 4 * max(0, row_keys)) - start) / 2)
        return max(rows, int(row_keys == self.most_row_keys))

    def cut(self, num_sequences: int) -> Cut:
        """Returns the quickest cut of so many. One of which too little is known is taken at its best."""
        usual = self.usual_cut(num_sequences)
        if self.num_stages == 1 or num_sequences < 2:
            return usual
        # One step for each stage, and one more may be under way.
        rows = {-(-num_sequences // num_steps) for num_steps in range(1, self.num_stages + 2)}
        counts = [count for count in sorted(rows - {usual.rows}) if count <= self._max_rows]
        others = [Cut(num_sequences, count) for count in counts]
        quickest = min(others, key=self._seconds, default=usual)
        return quickest if self._seconds(quickest) < MARGIN * self._seconds(usual) else usual

    def usual_cut(self, num_sequences: int) -> Cut:
        """Returns the cut where nothing is measured: one step for each stage, as far as there are as many."""
        rows = -(-num_sequences // self.num_stages)
        return Cut(num_sequences, min(rows, self._max_rows))

    def _seconds(self, cut: Cut) -> float:
        """The time between two tokens of a sequence.

        No stage does all its steps in less, and no step passes through all stages in less.
        """
        full, last = self._least(cut.rows), self._least(cut.last_rows)
        busiest = max(one * (cut.num_steps - 1) + other for one, other in zip(full, last, strict=True))
        return max(busiest, sum(full))

    def _least(self, num_rows: int) -> SequenceOf[float]:
        """The seconds of each stage for so many rows; where they aren't known the least that is possible.

        More rows take no less time, and half of them no less than half.
        """
        wanted = _bucket(num_rows)
        if wanted in self._known:
            return self._known[wanted]
        least = [0.0] * self.num_stages
        for bucket, seconds in self._known.items():
            part = min(1.0, wanted / bucket)
            least = [max(one, other * part) for one, other in zip(least, seconds, strict=True)]
        return least


def _bucket(num_rows: int) -> int:
    """The rows for which programs are made: the next power of two."""
    return 1 << max(0, num_rows - 1).bit_length()
