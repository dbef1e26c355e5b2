"""A rank tells this of its slice of the logits: the likeliest tokens, sums, single logits, whole rows.

Pure arithmetic on the rows [logit rows, vocabulary slice]; knows no device.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.likeliest import likeliest, log_sum, log_sum_of_groups
from tplaunch.coordinator.messages import NO_FLOATS, Answer, Wanted
from tplaunch.coordinator.split.plan import Span

Floats = npt.NDArray[np.float32]


def answer(wanted: Wanted, logits: Floats, vocabulary: Span, groups: Floats | None = None) -> Answer:
    """The answer to what is wanted of the rows, but for whole ones. vocabulary: the tokens of the slice.

    groups: of each row [logit rows, 2, groups] the highest logits and the sums of its groups, where the
    device has found them.
    """
    if groups is None and wants_only_likeliest(wanted) and logits.size:
        told = _only_likeliest(wanted, logits, vocabulary)
        if told is not None:
            return told
    maxima = [None] * len(logits) if groups is None else groups[:, 0]
    found = [
        likeliest(row, count, highest)
        for row, count, highest in zip(logits, wanted.num_candidates.tolist(), maxima, strict=False)
    ]
    return Answer(
        counts=np.array([indices.size for indices in found], np.int32),
        ids=(_joined(found, np.intp) + vocabulary.start).astype(np.int32),
        logits=_joined([row[indices] for row, indices in zip(logits, found)], np.float32),
        log_sums=np.array(
            [
                log_sum(logits[row]) if groups is None else log_sum_of_groups(*groups[row])
                for row in wanted.sum_rows.tolist()
            ],
            np.float64,
        ),
        asked=_asked(wanted, logits, vocabulary) if wanted.asked_ids.size else NO_FLOATS,
    )


def wants_only_likeliest(wanted: Wanted) -> bool:
    """Tells whether nothing but the likeliest token of each row is wanted, as of texts that are greedy."""
    if wanted.sum_rows.size or wanted.asked_ids.size or wanted.whole_rows.size:
        return False
    return set(wanted.num_candidates.tolist()) == {1}


def _only_likeliest(wanted: Wanted, logits: Floats, vocabulary: Span) -> Answer | None:
    """The same answer where only that is wanted, in less time; None where a row's highest is not finite.

    Between two steps the caches hold nothing of this, so each other NumPy function takes microseconds.
    """
    ids = [int(row.argmax()) for row in logits]
    highest = [row.item(token) for row, token in zip(logits, ids, strict=True)]
    if not all(map(math.isfinite, highest)):
        return None
    return Answer(
        counts=wanted.num_candidates,
        ids=np.array([vocabulary.start + token for token in ids], np.int32),
        logits=np.array(highest, np.float32),
    )


def _asked(wanted: Wanted, logits: Floats, vocabulary: Span) -> Floats:
    """The logits of the asked tokens that are in the slice."""
    is_mine = (wanted.asked_ids >= vocabulary.start) & (wanted.asked_ids < vocabulary.stop)
    rows, ids = wanted.asked_rows[is_mine], wanted.asked_ids[is_mine] - vocabulary.start
    asked: Floats = logits[rows, ids]
    return asked


def whole_rows(rows: npt.NDArray[np.int32], logits: Floats) -> Floats:
    """The rows one after another, flat; where they are the first ones, the memory of the logits itself."""
    if not rows.size or np.array_equal(rows, np.arange(rows.size)):
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
    if wanted.asked_rows.size > 1 and (wanted.asked_rows[1:] < wanted.asked_rows[:-1]).any():
        raise ValueError("the asked rows do not ascend")


def check_rows(name: str, rows: npt.NDArray[np.int32], num_rows: int) -> None:
    """Raises ValueError where these are not some of so many logit rows, ascending."""
    _check_range(name, rows, num_rows)
    if rows.size > 1 and (rows[1:] <= rows[:-1]).any():
        raise ValueError(f"{name} is named twice or not in order")


def _check_range(name: str, values: npt.NDArray[np.int32], stop: int) -> None:
    numbers = values.tolist()  # most often a few, for which NumPy takes longer
    if numbers and not 0 <= min(numbers) <= max(numbers) < stop:
        raise ValueError(f"{name} from {min(numbers)} to {max(numbers)}; 0 to {stop - 1} are possible")


def _joined(parts: list[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """The parts one after another; of a single one its own memory. dtype: theirs."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
