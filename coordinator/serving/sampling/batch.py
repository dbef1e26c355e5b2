"""Picks the tokens of many sequences from one step: the usual ways to sample at once, the others one by one.

The same bits as one by one: each sum is added up in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.serving.sampling.evidence import Floats
from tplaunch.coordinator.serving.sampling.picked import Picked, describe
from tplaunch.coordinator.serving.sampling.pool import LogitsError, NeedsRow
from tplaunch.coordinator.serving.sampling.results import StepResult
from tplaunch.coordinator.serving.sampling.sampler import Sampler

LEAST_AT_ONCE = 3  # sequences; fewer are quicker one by one

FetchWhole = Callable[[Sequence[int]], Floats]  # logit rows, ascending -> [rows, vocabulary]


@dataclass(frozen=True)
class Pick:
    """One token to pick: by which sampler, from which logit row, for which position of its sequence."""

    sampler: Sampler
    row: int
    position: int
    generated: Sequence[int]


def pick_all(picks: Sequence[Pick], result: StepResult, fetch: FetchWhole) -> list[Picked | LogitsError]:
    """A token for each, or the error that is its sequence's own.

    result: as gather() of the samplers' wants asked for it. Whole rows that turn out to be needed are fetched
    in one go.
    """
    found: list[Picked | LogitsError | None] = [None] * len(picks)
    plain = [number for number, pick in enumerate(picks) if pick.sampler.is_plain]
    pick_some = pick_plain if len(plain) >= LEAST_AT_ONCE else pick_greedy
    for number, token in zip(plain, pick_some([picks[number] for number in plain], result)):
        found[number] = None if token < 0 else _picked(picks[number], token, result)
    for number, pick in enumerate(picks):
        if found[number] is None:
            found[number] = _pick(pick, result)
    missing = [number for number, picked in enumerate(found) if picked is None]
    rows = _whole_rows(sorted({picks[number].row for number in missing}), result, fetch)
    return [
        _pick_row(pick, rows[pick.row], result) if picked is None else picked
        for pick, picked in zip(picks, found, strict=True)
    ]


def pick_greedy(picks: Sequence[Pick], result: StepResult) -> list[int]:
    """The tokens of plain samplers that are greedy, -1 as pick_plain and for the others."""
    tokens = []
    for pick in picks:
        is_known = pick.sampler.params.is_greedy and result.counts[pick.row]
        token, banned = int(result.ids[pick.row, 0]) if is_known else -1, pick.sampler.ban_table
        tokens.append(-1 if banned is not None and banned[token] else token)
    return tokens


def pick_plain(picks: Sequence[Pick], result: StepResult) -> list[int]:
    """The tokens of plain samplers, -1 where one by one tells, or tells why there is none."""
    rows = np.array([pick.row for pick in picks])
    ids, logits, counts = result.ids[rows], result.logits[rows].astype(np.float64), result.counts[rows]
    if not ids.shape[1]:
        return [-1] * len(picks)
    top_k, top_p, min_p_logit, temperature = np.array([pick.sampler.plain for pick in picks]).T[:, :, None]
    numbers = np.array([pick.sampler.number(pick.position) for pick in picks])[:, None]
    columns = np.arange(ids.shape[1])
    enough = (counts >= top_k[:, 0]) | (result.complete[rows] & (counts > 0))
    num_left = np.minimum(top_k, counts[:, None])
    logits[columns >= num_left] = -np.inf
    first = np.maximum(logits[:, :1], -1e300)  # of a row without candidates, which is not enough
    cumulative = np.cumsum(np.exp(logits - first), axis=1)
    reached = 1 + np.count_nonzero(cumulative < top_p * cumulative[:, -1:], axis=1, keepdims=True)
    num_left = np.where(top_p < 1, reached, num_left)
    likely = np.count_nonzero(logits >= first + min_p_logit, axis=1, keepdims=True)
    num_left = np.minimum(num_left, np.where(min_p_logit > -np.inf, likely, num_left))
    logits[columns >= num_left] = -np.inf
    scaled = logits / temperature
    cumulative = np.cumsum(np.exp(scaled - first / temperature), axis=1)
    passed = (cumulative <= numbers * cumulative[:, -1:]) & (columns < num_left - 1)
    places = np.count_nonzero(passed, axis=1)
    tokens = ids[np.arange(len(picks)), places]
    tokens[~enough | _have_banned(picks, ids, columns < counts[:, None])] = -1
    found: list[int] = tokens.tolist()
    return found


def _have_banned(
    picks: Sequence[Pick], ids: npt.NDArray[np.int32], are_there: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Returns which rows have a token among their candidates that their sampler never picks."""
    found = np.zeros(len(picks), np.bool_)
    tables = {id(table): table for pick in picks if (table := pick.sampler.ban_table) is not None}
    for key, table in tables.items():
        mine = np.array([id(pick.sampler.ban_table) == key for pick in picks])
        found |= mine & (table[ids] & are_there).any(axis=1)
    return found


def _picked(pick: Pick, token: int, result: StepResult) -> Picked:
    num_top = pick.sampler.params.logprobs
    return Picked(token) if num_top is None else describe(result.evidence(pick.row), token, num_top)


def _pick(pick: Pick, result: StepResult) -> Picked | LogitsError | None:
    try:
        return pick.sampler.pick(result.evidence(pick.row), pick.position, pick.generated)
    except NeedsRow:
        return None
    except LogitsError as error:
        return error


def _pick_row(pick: Pick, row: Floats, result: StepResult) -> Picked | LogitsError:
    total = float(result.log_sums[pick.row])
    try:
        return pick.sampler.pick_row(row, pick.position, pick.generated, total)
    except LogitsError as error:
        return error


def _whole_rows(rows: list[int], result: StepResult, fetch: FetchWhole) -> dict[int, Floats]:
    found = {row: whole for row in rows if (whole := result.whole(row)) is not None}
    missing = [row for row in rows if row not in found]
    if missing:
        found.update(zip(missing, fetch(missing)))
    return found
