"""Makes one table of the candidates that a step's ranks named: pure arithmetic, no sockets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.messages import Answer
from tplaunch.coordinator.serving.sampling.evidence import Floats, Int32Array

Bools = npt.NDArray[np.bool_]


def candidates_of(answers: Sequence[Answer], num_rows: int) -> tuple[Int32Array, Floats, Bools]:
    """Returns ids and logits [logit rows, candidates] of all ranks, descending, and the rows that are sound.

    Behind a row's candidates stands -inf. Ranks' tokens ascend and each rank's candidates are in order, so a
    stable sort leaves equal logits in the order of their ids.
    """
    if not answers[0].counts.size:
        return (
            np.zeros((num_rows, 0), np.int32),
            np.zeros((num_rows, 0), np.float32),
            np.ones(num_rows, np.bool_),
        )
    tables = [_table(answer) for answer in answers]
    all_ids = np.concatenate([ids for ids, _ in tables], axis=1)
    all_logits = np.concatenate([logits for _, logits in tables], axis=1)
    sound = np.asarray((all_logits < np.inf).all(axis=1))  # NaN is not
    if len(answers) > 1:
        order = (-all_logits).argsort(axis=1, kind="stable")
        if num_rows > 1:
            order += np.arange(num_rows)[:, None] * all_ids.shape[1]
        all_ids, all_logits = all_ids.ravel()[order], all_logits.ravel()[order]
    return all_ids, all_logits, sound


def _table(answer: Answer) -> tuple[Int32Array, Floats]:
    """A rank's candidates as a table of a row each; rows with fewer than others end in -inf."""
    counts = answer.counts
    num_rows, width = counts.size, int(counts.max(initial=0))
    if answer.ids.size == num_rows * width:
        return answer.ids.reshape(num_rows, width), answer.logits.reshape(num_rows, width)
    ids, logits = np.zeros((num_rows, width), np.int32), np.full((num_rows, width), -np.inf, np.float32)
    is_there = np.arange(width) < counts[:, None]
    ids[is_there], logits[is_there] = answer.ids, answer.logits
    return ids, logits
