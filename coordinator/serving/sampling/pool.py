"""The tokens that can still be picked, and what a few of them tell of all.

A pool holds the start of a row's descending order: complete where no token follows, else only the likeliest.
What a stage does to an incomplete pool is what it would do to the whole one, or it raises NeedsRow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

ROUNDING = 1e-9  # of the sums of a whole vocabulary in float64, as a share
MAX_EXPONENT = 700.0  # exp of more is no float64


class LogitsError(ValueError):
    """Logits that no token can be picked from. `tokens`: those whose logits are no numbers."""

    def __init__(self, message: str, tokens: Collection[int] = ()) -> None:
        super().__init__(message)
        self.tokens = tokens


class NeedsRow(Exception):
    """The candidates can't decide what the whole row of logits would."""


def _no_ids() -> Ids:
    return np.zeros(0, np.int64)


def _no_logits() -> Logits:
    return np.zeros(0, np.float64)


@dataclass(frozen=True)
class Pool:
    """Tokens in descending order of their logits, of equals the lowest id first. None has -inf.

    Behind an incomplete pool come tokens of which some are known, in no order, and the others have a weight:
    the sum of exp(logit - reference), None where that is not known, which may be off by weight_error.
    """

    ids: Ids
    logits: Logits
    complete: bool = True
    beyond_ids: Ids = field(default_factory=_no_ids)
    beyond_logits: Logits = field(default_factory=_no_logits)
    reference: float = 0.0
    weight: float | None = None
    weight_error: float = 0.0

    def first(self, count: int) -> Pool:
        """The pool of the first tokens alone, which is complete."""
        return Pool(self.ids[:count], self.logits[:count])

    def without_weight(self) -> Pool:
        """The pool, behind which an unknown weight comes from now on."""
        return replace(self, weight=None)

    def tail(self, logit: float) -> tuple[float, float]:
        """The sum of exp(l - logit) over all that comes behind, and how far it may be off; 0 for nothing.

        Raises NeedsRow where it is not known.
        """
        if self.complete:
            return 0.0, 0.0
        if self.weight is None:
            raise NeedsRow
        factor = _exp(self.reference - logit)
        beyond = float(np.exp(np.minimum(self.beyond_logits - logit, MAX_EXPONENT)).sum())
        return self.weight * factor + beyond, self.weight_error * factor

    def need_complete(self) -> None:
        if not self.complete:
            raise NeedsRow

    def changed(self, ids: Ids, change: Callable[[Places, Logits], Logits], raised: Bools) -> Pool:
        """The pool once the logits of these tokens, ascending ids, have changed, in its new order.

        `change` is given places in ids and the logits of these tokens, and returns their new ones. `raised`:
        those that it may make higher. Of the others one that is not known can't come before those that are.
        """
        known = np.concatenate((self.ids, self.beyond_ids))
        logits = np.concatenate((self.logits, self.beyond_logits))
        places = np.minimum(np.searchsorted(ids, known), ids.size - 1)
        hits = np.flatnonzero(ids[places] == known)
        if hits.size:
            logits[hits] = change(places[hits], logits[hits])
        if self.complete or hits.size == ids.size:
            return self._sorted(known, logits)
        unknown = raised.copy()
        unknown[places[hits]] = False
        if unknown.any():
            raise NeedsRow
        return self.without_weight()._sorted(known, logits)

    def kept(self, allowed: Bools) -> Pool:
        """The pool of the allowed tokens; `allowed` has an entry for every token of the vocabulary."""
        keep, keep_beyond = allowed[self.ids], allowed[self.beyond_ids]
        return replace(
            self.without_weight(),
            ids=self.ids[keep],
            logits=self.logits[keep],
            beyond_ids=self.beyond_ids[keep_beyond],
            beyond_logits=self.beyond_logits[keep_beyond],
        )

    def _sorted(self, ids: Ids, logits: Logits) -> Pool:
        """The pool of known tokens with new logits, up to where an unknown token may come."""
        whole = sorted_pool(ids, logits)
        if self.complete:
            return whole
        if not self.ids.size:
            sure = np.zeros(whole.ids.size, np.bool_)
        else:
            border, last = self.logits[-1], self.ids[-1]  # unknown tokens come behind them
            sure = (whole.logits > border) | ((whole.logits == border) & (whole.ids <= last))
        return Pool(
            whole.ids[sure],
            whole.logits[sure],
            False,
            whole.ids[~sure],
            whole.logits[~sure],
            self.reference,
            self.weight,
            self.weight_error,
        )


def check_logits(logits: Logits) -> None:
    """Raises LogitsError where a row's logits are no numbers, or leave no token."""
    peak = float(logits.max(initial=-np.inf))  # NaN if there is any
    if math.isfinite(peak):
        return
    if peak == -math.inf:
        raise all_ruled_out(logits.size)
    name, wrong = ("NaN", np.isnan(logits)) if math.isnan(peak) else ("+inf", np.isposinf(logits))
    tokens = np.flatnonzero(wrong).tolist()
    raise LogitsError(
        f"{len(tokens)} of {logits.size} logits are {name}: the model's arithmetic went wrong", tokens
    )


def all_ruled_out(vocabulary_size: int) -> LogitsError:
    """The error of a row of which no logit is above -inf."""
    return LogitsError(f"all {vocabulary_size} logits are -inf, which leaves no token to pick")


def sorted_pool(ids: Ids, logits: Logits) -> Pool:
    """The complete pool of these tokens, without those at -inf."""
    possible = logits > -np.inf
    if not possible.all():
        ids, logits = ids[possible], logits[possible]
    if bool((ids[1:] > ids[:-1]).all()):  # as in a whole row; then one key is enough
        order = np.argsort(-logits, kind="stable")
    else:
        order = np.lexsort((ids, -logits))
    return Pool(ids[order], logits[order])


def weights(logits: Logits) -> Logits:
    """Probabilities up to a common factor, of descending logits; the first is 1."""
    found: Logits = np.exp(logits - logits[0])
    return found


def _exp(exponent: float) -> float:
    return float(np.exp(min(exponent, MAX_EXPONENT)))
