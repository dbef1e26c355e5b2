"""The stages that leave tokens out of a pool or change its logits, one function each, and the draw.

On a complete pool each is its definition. On an incomplete one it gives what it would on the whole, for the
part that is known, or raises NeedsRow. llama.cpp's semantics are those of src/llama-sampler.cpp there.
"""

from __future__ import annotations

import numpy as np

from tplaunch.coordinator.serving.sampling.pool import ROUNDING, Logits, NeedsRow, Pool, weights


def keep_top_k(pool: Pool, top_k: int) -> Pool:
    """Keeps the top_k likeliest tokens (Fan et al. 2018, arXiv:1805.04833)."""
    if not pool.complete and pool.ids.size < top_k:
        raise NeedsRow
    return pool.first(top_k)


def keep_top_p(pool: Pool, top_p: float) -> Pool:
    """Keeps the shortest start whose probabilities reach top_p, one token at least.

    Nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751). Where the known part does not reach top_p all
    of it stays, and a later stage may still cut it.
    """
    cumulative = np.cumsum(weights(pool.logits))
    if pool.complete:
        return pool.first(1 + int(np.searchsorted(cumulative, top_p * cumulative[-1], side="left")))
    place = _place(pool, cumulative, top_p, "left")
    return pool.first(1 + place) if place < pool.ids.size else pool.without_weight()


def keep_min_p(pool: Pool, min_p_logit: float) -> Pool:
    """Keeps tokens whose probability is at least min_p times the likeliest's (arXiv:2407.01082).

    min_p_logit: log(min_p).
    """
    num_kept = int(np.count_nonzero(pool.logits >= pool.logits[0] + min_p_logit))
    if not pool.complete and num_kept == pool.ids.size:
        raise NeedsRow
    return pool.first(num_kept)


def keep_typical(pool: Pool, typical_p: float) -> Pool:
    """Keeps the most typical tokens, until their probabilities pass typical_p (arXiv:2202.00666).

    A token is the more typical the nearer its surprise, -log p, comes to the entropy. Of equally typical ones
    the likelier comes first.
    """
    pool.need_complete()
    probabilities = _probabilities(pool.logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.log(probabilities)
        entropy = float(np.nansum(probabilities * surprise))  # 0 x inf: what can't come has no entropy
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    reached = np.cumsum(probabilities[order])
    kept = np.sort(order[: 1 + int(np.searchsorted(reached, typical_p, side="right"))])
    return Pool(pool.ids[kept], pool.logits[kept])


def keep_within_sigmas(pool: Pool, num_sigmas: float) -> Pool:
    """Keeps logits within so many standard deviations of the highest (top-n-sigma, arXiv:2411.07641)."""
    pool.need_complete()
    threshold = pool.logits[0] - num_sigmas * pool.logits.std()
    return pool.first(int(np.count_nonzero(pool.logits >= threshold)))


def leave_out_top_choices(pool: Pool, threshold: float) -> Pool:
    """Leaves out every token of at least this probability but the least likely of them: XTC, when it strikes.

    As llama.cpp has it, a threshold above 0.5 does nothing.
    """
    pool.need_complete()
    if threshold > 0.5:
        return pool
    first = int(np.count_nonzero(_probabilities(pool.logits) >= threshold)) - 1
    return Pool(pool.ids[first:], pool.logits[first:]) if first > 0 else pool


def scale(pool: Pool, temperature: float) -> Pool:
    """Divides the logits by the temperature; above 1 that evens them out."""
    if temperature == 1:
        return pool
    with np.errstate(over="ignore"):
        scaled, beyond = pool.logits / temperature, pool.beyond_logits / temperature
        if not np.isfinite(scaled[[0, -1]]).all():  # a tiny temperature: only differences are left
            scaled = (pool.logits - pool.logits[0]) / temperature
    num_possible = int(np.count_nonzero(scaled > -np.inf))
    if num_possible < scaled.size:
        return Pool(pool.ids[:num_possible], scaled[:num_possible])
    return Pool(pool.ids, scaled, pool.complete, pool.beyond_ids, beyond, pool.reference)


def draw(pool: Pool, number: float) -> int:
    """The place in the pool of the token that a random number in [0, 1) falls on."""
    cumulative = np.cumsum(weights(pool.logits))
    if pool.complete:
        # The number is below 1, so that a token of weight 0 is never picked.
        return int(np.searchsorted(cumulative[:-1], number * cumulative[-1], side="right"))
    place = _place(pool, cumulative, number, "right")
    if place == pool.ids.size:
        raise NeedsRow
    return place


def _place(pool: Pool, cumulative: Logits, share: float, side: str) -> int:
    """Returns where `share` of all weight lies among the known weights; their number where it is beyond.

    Raises NeedsRow where it may lie on either side of a border.
    """
    beyond, error = pool.tail(float(pool.logits[0]))
    total = float(cumulative[-1]) + beyond
    slack = error + ROUNDING * total
    count = np.count_nonzero
    low, high = (
        int(count(cumulative < target) if side == "left" else count(cumulative <= target))
        for target in (share * total - slack, share * total + slack)
    )
    if low != high:
        raise NeedsRow
    return low


def _probabilities(logits: Logits) -> Logits:
    found = weights(logits)
    found /= found.sum()
    return found
