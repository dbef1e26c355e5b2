"""A sequence asks for part of a step's logits, Wants, and is given what is known of its row, RowEvidence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.likeliest import SUM_ERROR, exact_log_sum, likeliest
from tplaunch.coordinator.serving.sampling.pool import ROUNDING, Ids, Pool, sorted_pool

Floats = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]

NO_TOKENS: Int32Array = np.zeros(0, np.int32)
NO_LOGITS: Floats = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Wants:
    """The ranks shall tell this of a row. whole_row: all its logits, beside what else is asked for."""

    num_candidates: int = 0  # so many of the likeliest tokens
    log_sum: bool = False  # the logarithm of the sum of all exp(logit)
    ids: Int32Array = field(default_factory=lambda: NO_TOKENS)  # tokens whose logits are asked for
    whole_row: bool = False


@dataclass(frozen=True)
class RowEvidence:
    """The known part of a row: its likeliest tokens in order, and more where it was asked for.

    sound: no candidate's logit is NaN or +inf; where one is, the candidates are not to be used.
    """

    ids: Int32Array  # the likeliest, of equals the lowest first
    logits: Floats  # theirs
    complete: bool  # all other logits are -inf
    sound: bool = True
    log_sum: float = math.nan
    sum_error: float = SUM_ERROR  # of log_sum, at most
    asked_ids: Int32Array = field(default_factory=lambda: NO_TOKENS)
    asked_logits: Floats = field(default_factory=lambda: NO_LOGITS)

    def pool(self) -> Pool:
        """The candidates, with what is known of the tokens behind them."""
        ids, logits = self.ids.astype(np.int64), self.logits.astype(np.float64)
        if self.complete:
            return Pool(ids, logits)
        beyond_ids, beyond_logits = self.asked_ids.astype(np.int64), self.asked_logits.astype(np.float64)
        if beyond_ids.size:
            beyond = ~np.isin(beyond_ids, ids)
            beyond_ids, beyond_logits = beyond_ids[beyond], beyond_logits[beyond]
        reference = float(logits[0]) if logits.size else 0.0
        weight, error = None, 0.0
        if math.isfinite(self.log_sum) and logits.size:
            total = math.exp(self.log_sum - reference)
            known = np.exp(logits - reference).sum() + np.exp(beyond_logits - reference).sum()
            weight, error = max(0.0, total - float(known)), self.sum_error * total
        return Pool(ids, logits, False, beyond_ids, beyond_logits, reference, weight, error)

    def asked_pool(self) -> Pool:
        """The asked tokens alone, where no other may be picked."""
        return sorted_pool(self.asked_ids.astype(np.int64), self.asked_logits.astype(np.float64))

    def logit(self, token: int) -> float | None:
        """The logit of a token, where it is known."""
        for ids, logits in ((self.ids, self.logits), (self.asked_ids, self.asked_logits)):
            found = np.flatnonzero(ids == token)
            if found.size:
                return float(logits[found[0]])
        return None


def evidence_of(row: Floats, wants: Wants) -> RowEvidence:
    """The evidence that a whole row gives; its sum is more exact than the ranks'."""
    ids = likeliest(row, wants.num_candidates)
    logits = row[ids]
    asked: Ids = wants.ids.astype(np.int64)
    return RowEvidence(
        ids=ids.astype(np.int32),
        logits=logits,
        complete=ids.size < wants.num_candidates or ids.size == row.size,
        sound=bool(np.isfinite(logits).all()),
        log_sum=exact_log_sum(row) if wants.log_sum else math.nan,
        sum_error=ROUNDING,
        asked_ids=wants.ids,
        asked_logits=row[asked],
    )
