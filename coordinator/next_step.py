"""The step that most often follows another one: the same texts, each one position further.

Coordinator and workers work it out alike, so that the message of such a step needs only bring its tokens.
"""

from __future__ import annotations

import numpy as np

from tplaunch.coordinator.messages import Advance, Step

NUM_COLUMNS, POSITION, LENGTH, READ, WRITTEN = 5, 1, 2, 3, 4  # of Step.runs


def next_runs(step: Step) -> list[int] | None:
    """The runs of the step in which each text of this one gets its next row, and nothing else happens.

    None where some text had several rows: what follows a part of a prompt is not foreseen.
    """
    runs: list[int] = step.runs.tolist()
    if not runs or len(runs) % NUM_COLUMNS or set(runs[LENGTH::NUM_COLUMNS]) != {1}:
        return None
    runs[POSITION::NUM_COLUMNS] = [position + 1 for position in runs[POSITION::NUM_COLUMNS]]
    runs[READ::NUM_COLUMNS] = runs[WRITTEN::NUM_COLUMNS]
    return runs


class Shortener:
    """Tells ranks a step by its tokens alone, where the rest follows from the step that they had before."""

    def __init__(self) -> None:
        self._last: Step | None = None
        self._runs: list[int] | None = None  # that are foreseen

    def shortened(self, step: Step) -> Step | Advance:
        """The message for a step that is about to be sent."""
        last = self._last
        if last is None or step.number != last.number + 1 or step.wanted is not last.wanted:
            return step
        if step.tables.size or step.window_tables.size or step.copies.size or step.window_copies.size:
            return step
        if step.of_prompts or step.runs.tolist() != self._runs:
            return step
        if step.logit_rows.tolist() != last.logit_rows.tolist():
            return step
        return Advance(step.number, step.token_ids)

    def note(self, step: Step) -> None:
        """Keeps a step that was sent to all ranks; while they compute."""
        self._last, self._runs = step, next_runs(step)


def advanced(last: Step | None, advance: Advance) -> Step:
    """The step that a message tells by its tokens, from the one before it.

    Raises ValueError where none follows from that, or one of other rows.
    """
    runs = None if last is None else next_runs(last)
    if last is None or runs is None or advance.token_ids.size * NUM_COLUMNS != len(runs):
        raise ValueError(
            f"step {advance.number} of {advance.token_ids.size} rows can't follow from the one before it"
        )
    return Step(
        advance.number, advance.token_ids, np.array(runs, np.int32), last.logit_rows, wanted=last.wanted
    )
