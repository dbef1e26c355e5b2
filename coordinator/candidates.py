"""A rank tells this of its slice of the logits: the likeliest tokens, sums, single logits, whole rows.

Pure arithmetic on the rows [logit rows, vocabulary slice]; knows no device.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.likeliest import likeliest, log_sum
from tplaunch.coordinator.messages import Answer, Wanted
from tplaunch.coordinator.split.plan import Span

Floats = npt.NDArray[np.float32]


def answer(wanted: Wanted, logits: Floats, vocabulary: Span) -> Answer:
    """The answer to what is wanted of the rows, but for whole ones. vocabulary: the tokens of the slice."""
    found = [
        likeliest(row, count) for row, count in zip(logits, wanted.num_candidates.tolist(), strict=False)
    ]
    is_mine = (wanted.asked_ids >= vocabulary.start) & (wanted.asked_ids < vocabulary.stop)
    rows, ids = wanted.asked_rows[is_mine], wanted.asked_ids[is_mine] - vocabulary.start
    return Answer(
        counts=np.array([indices.size for indices in found], np.int32),
        ids=_joined([indices + vocabulary.start for indices in found]).astype(np.int32),
        logits=_joined([row[indices] for row, indices in zip(logits, found)]).astype(np.float32, copy=False),
        log_sums=np.array([log_sum(logits[row]) for row in wanted.sum_rows.tolist()], np.float64),
        asked=logits[rows, ids],
    )


def whole_rows(rows: npt.NDArray[np.int32], logits: Floats) -> Floats:
    """The rows one after another, flat; where they are the first ones, the memory of the logits itself."""
    if np.array_equal(rows, np.arange(rows.size)):
        return logits[: rows.size].reshape(-1)
    return logits[rows].reshape(-1)


def check_wanted(wanted: Wanted, num_rows: int, vocabulary_size: int) -> None:
    """Raises ValueError where a step with so many logit rows can't have this wanted of it."""
    if wanted.num_candidates.size not in (0, num_rows):
        raise ValueError(
            f"candidates of {wanted.num_candidates.size} rows are wanted, of {num_rows} logit rows"
        )
    if wanted.asked_rows.size != wanted.asked_ids.size:
        raise ValueError(f"{wanted.asked_ids.size} asked tokens with {wanted.asked_rows.size} rows")
    _check_range("a number of candidates", wanted.num_candidates, vocabulary_size + 1)
    _check_range("an asked token", wanted.asked_ids, vocabulary_size)
    for name, rows in (("a row of a sum", wanted.sum_rows), ("a whole row", wanted.whole_rows)):
        check_rows(name, rows, num_rows)
    _check_range("an asked row", wanted.asked_rows, num_rows)
    if np.any(np.diff(wanted.asked_rows) < 0):
        raise ValueError("the asked rows do not ascend")


def check_rows(name: str, rows: npt.NDArray[np.int32], num_rows: int) -> None:
    """Raises ValueError where these are not some of so many logit rows, ascending."""
    _check_range(name, rows, num_rows)
    if np.any(np.diff(rows) <= 0):
        raise ValueError(f"{name} is named twice or not in order")


def _check_range(name: str, values: npt.NDArray[np.int32], stop: int) -> None:
    if values.size and values.view(np.uint32).max() >= stop:  # negative ones become large
        raise ValueError(f"{name} from {values.min()} to {values.max()}; 0 to {stop - 1} are possible")


def _joined(parts: list[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)
