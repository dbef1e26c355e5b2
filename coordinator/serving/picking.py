"""Picks the next tokens of all texts that a step has come to the end of."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from tplaunch.coordinator.serving.sampling.evidence import Floats
from tplaunch.coordinator.serving.sampling.picked import Picked
from tplaunch.coordinator.serving.sampling.pool import LogitsError, NeedsRow
from tplaunch.coordinator.serving.sampling.results import StepResult
from tplaunch.coordinator.serving.stream import Stream


def pick_all(
    going_on: SequenceOf[tuple[Stream, int]], result: StepResult, fetch: Callable[[list[int]], Floats]
) -> list[Picked | LogitsError]:
    """The next token of each text, from the row of the result that is given with it, or why there is none.

    Rows that the candidates don't decide are fetched whole, all at once; fetch: takes ascending rows.
    """
    picks = [_pick(stream, result, row) for stream, row in going_on]
    undecided = [index for index, picked in enumerate(picks) if picked is None]
    missing = sorted(
        {row for _, row in (going_on[index] for index in undecided) if result.whole(row) is None}
    )
    fetched = dict(zip(missing, fetch(missing))) if missing else {}
    for index in undecided:
        stream, row = going_on[index]
        whole = result.whole(row)
        picks[index] = _pick_of_row(stream, fetched[row] if whole is None else whole)
    return [picked for picked in picks if picked is not None]


def _pick(stream: Stream, result: StepResult, row: int) -> Picked | LogitsError | None:
    """The token, by the candidates alone; None where they don't tell."""
    try:
        return stream.sampler.pick(result.evidence(row), stream.next_position, stream.output.token_ids)
    except NeedsRow:
        return None
    except LogitsError as error:
        return error


def _pick_of_row(stream: Stream, row: Floats) -> Picked | LogitsError:
    """The token, by all logits."""
    try:
        return stream.sampler.pick_row(row, stream.next_position, stream.output.token_ids)
    except LogitsError as error:
        return error
