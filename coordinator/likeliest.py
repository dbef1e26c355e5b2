"""The highest logits of a row and the logarithm of its sum: the same on ranks and on the coordinator.

A row is cut into groups: group g of n whole ones holds the logits at g, g + n, g + 2 n and so on, and those
left behind them make one more. A device may have looked at them already (worker/ops/logits.py). Pure
arithmetic on float32 rows; knows no vocabulary, device or message.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

GROUP_SIZE = 64  # logits
# How far log_sum may be off, as a share. Each exp is off by 2.5 ulp at most, its argument by half an ulp of
# up to 12, the logarithm of a vocabulary's size (what is further off weighs little). NumPy adds up float32 in
# blocks of 128, 8 sums each, and the blocks pairwise: 16 + 7 more roundings of half an ulp.
SUM_ERROR = 3e-6
PIECE_SIZE = 16384  # logits: larger temporary arrays are mapped and zeroed anew each time
LOWEST = float(np.finfo(np.float32).min)  # below it is only -inf


def likeliest(logits: Floats, count: int, maxima: Floats | None = None) -> Indices:
    """The indices of the `count` highest logits [n], highest first, of equals the lowest index first.

    maxima: of the groups, where they are known; then few of the logits are looked at.
    -inf is left out. Where NaN or +inf are among the logits only these are returned, the first `count`.
    Only what reaches the last highest logit is sorted: a partition alone would leave it to the platform
    which of several equal logits make the cut.
    """
    if count <= 0 or not logits.size:
        return np.zeros(0, np.intp)
    if maxima is None and count == 1:  # of a greedy text
        first = int(logits.argmax())
        if math.isfinite(logits[first]):
            return np.array([first], np.intp)
    groups = group_maxima(logits) if maxima is None else maxima
    peak = float(groups.max())
    if not math.isfinite(peak):
        wrong: Indices = np.flatnonzero(np.isnan(logits) | np.isposinf(logits))
        wrong = wrong[:count]
        return wrong
    found = _at_least(logits, groups, count)
    reached = logits[found]
    if found.size > 2 * count:  # many equal ones; else the sort below is as quick
        keep = reached >= _kth_highest(reached, count)
        found, reached = found[keep], reached[keep]
    best: Indices = found[np.lexsort((found, -reached))[:count]]
    return best


def log_sum(logits: Floats) -> float:
    """log(sum(exp(logits))) of a row [n], within SUM_ERROR; NaN where a logit is NaN or +inf.

    The exponentials are float32, which is seven times as fast; pieces' sums are added up in float64.
    """
    return _log_sum(logits, np.float32)


def exact_log_sum(logits: Floats) -> float:
    """The same in float64, within 1e-11."""
    return _log_sum(logits, np.float64)


def _log_sum(logits: Floats, dtype: type[np.floating[Any]]) -> float:
    peak = float(logits.max()) if logits.size else -math.inf
    if not math.isfinite(peak):
        return -math.inf if peak == -math.inf else math.nan
    total = 0.0
    for start in range(0, logits.size, PIECE_SIZE):
        weights = logits[start : start + PIECE_SIZE].astype(dtype)  # NumPy 1 would subtract in float32
        weights -= peak
        np.exp(weights, out=weights)
        total += float(weights.sum())
    return peak + math.log(total)


def log_sum_of_groups(maxima: Floats, sums: Floats) -> float:
    """The same as log_sum of the groups' highest logits and their sums of exp(logit - highest)."""
    peak = float(maxima.max()) if maxima.size else -math.inf
    if not math.isfinite(peak):
        return -math.inf if peak == -math.inf else math.nan
    weights = np.exp(maxima.astype(np.float64) - peak)
    return peak + math.log(float(weights @ sums.astype(np.float64)))


def num_groups(count: int) -> int:
    """Counts the groups of so many logits."""
    return -(-count // GROUP_SIZE)


def group_sums(logits: Floats, maxima: Floats) -> Floats:
    """The sum of exp(logit - highest) of each group, 0 of one whose highest logit is not finite."""
    num_whole = logits.size // GROUP_SIZE
    sums = np.zeros(maxima.size, np.float32)
    with np.errstate(invalid="ignore"):  # infinity less itself
        whole = logits[: num_whole * GROUP_SIZE].reshape(GROUP_SIZE, num_whole) - maxima[:num_whole]
        sums[:num_whole] = np.exp(whole).sum(axis=0, dtype=np.float64)
        rest = np.exp(logits[num_whole * GROUP_SIZE :] - maxima[num_whole:])
        sums[num_whole:] = rest.sum(dtype=np.float64)
    sums[~np.isfinite(maxima)] = 0
    return sums


def group_maxima(logits: Floats) -> Floats:
    """The highest logit of each group. NaN is a maximum."""
    num_whole = logits.size // GROUP_SIZE
    maxima = logits[: num_whole * GROUP_SIZE].reshape(GROUP_SIZE, num_whole).max(axis=0, initial=-np.inf)
    rest = logits[num_whole * GROUP_SIZE :]
    return np.append(maxima, rest.max()) if rest.size else maxima


def _at_least(logits: Floats, groups: Floats, count: int) -> Indices:
    """The indices of all logits that reach a bound which at least `count` reach, and few more.

    The count-th highest of the groups' maxima is reached in as many groups, so only those are looked
    through; that is much less work than to partition all logits.
    """
    if groups.size <= count:
        return np.flatnonzero(logits > -np.inf)
    bound = max(_kth_highest(groups, count), LOWEST)
    num_whole = logits.size // GROUP_SIZE
    chosen = np.flatnonzero(groups >= bound)
    within = chosen[chosen < num_whole]
    indices = (within[:, None] + np.arange(GROUP_SIZE) * num_whole).ravel()
    if within.size < chosen.size:
        indices = np.append(indices, np.arange(num_whole * GROUP_SIZE, logits.size))
    found: Indices = indices[logits[indices] >= bound]
    return found


def _kth_highest(values: Floats, k: int) -> float:
    """The k-th highest of at least k values, of the lowest where there are fewer."""
    k = min(k, values.size)
    return float(np.partition(values, -k)[-k])
