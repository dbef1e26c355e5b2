"""Picks the next token from a row of logits.

Pure arithmetic on one row; knows no vocabulary, sequence or device.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

GROUP_SIZE = 64  # logits
LOWEST = float(np.finfo(np.float32).min)  # below it is only -inf


class LogitsError(ValueError):
    """Logits that no token can be picked from. `tokens`: those whose logits are no numbers."""

    def __init__(self, message: str, tokens: Collection[int] = ()) -> None:
        super().__init__(message)
        self.tokens = tokens


@dataclass(frozen=True)
class SamplingParameters:
    """How to pick. The defaults are llama.cpp's.

    temperature 0 picks the likeliest token (of equals the lowest id), and the rest is without effect.
    top_k 0, top_p 1 and min_p 0 each turn a filter off. Without a seed each Sampler differs.
    """

    temperature: float = 0.8
    top_k: int = 40  # keep so many of the likeliest tokens
    top_p: float = 0.95  # keep the likeliest tokens that together reach this probability
    min_p: float = 0.05  # keep tokens at least this probable, relative to the likeliest
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= _real("temperature", self.temperature) < math.inf:
            raise ValueError(f"temperature must be finite and not negative, not {self.temperature}")
        if _integer("top_k", self.top_k) < 0:
            raise ValueError(f"top_k must not be negative (0 turns it off), not {self.top_k}")
        if not 0 <= _real("top_p", self.top_p) <= 1:
            raise ValueError(f"top_p must be between 0 and 1 (1 turns it off), not {self.top_p}")
        if not 0 <= _real("min_p", self.min_p) <= 1:
            raise ValueError(f"min_p must be between 0 and 1 (0 turns it off), not {self.min_p}")
        if self.seed is not None and _integer("seed", self.seed) < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")


class Sampler:
    """Picks tokens for one sequence.

    The filters run in llama.cpp's order: top-k, top-p, min-p, then temperature, so that the temperature
    changes how likely the remaining tokens are and not which remain. Each call takes one number from
    PCG64(seed): the same seed and logits give the same tokens on every platform, but for the last bit of exp.
    """

    def __init__(self, parameters: SamplingParameters, suppressed: Collection[int] = ()) -> None:
        """suppressed: ids that are never picked."""
        self.parameters = parameters
        self._suppressed = np.array(sorted(suppressed), np.int64)
        self._random = np.random.Generator(np.random.PCG64(parameters.seed))

    def sample(self, logits: npt.NDArray[Any]) -> int:
        """The next token, from logits [vocabulary] float32.

        -inf rules a token out. Raises LogitsError for NaN and +inf, which say that the model's arithmetic
        went wrong, and when every token is ruled out.
        """
        if self._suppressed.size:
            logits = logits.copy()
            logits[self._suppressed[self._suppressed < logits.size]] = -np.inf
        likeliest = _checked_argmax(logits)
        if self.parameters.temperature == 0:
            return likeliest
        tokens = _likeliest(logits, self.parameters.top_k)
        kept = logits[tokens].astype(np.float64)
        kept = _top_p(kept, self.parameters.top_p)
        kept = _min_p(kept, self.parameters.min_p)
        cumulative = np.cumsum(_weights(kept, self.parameters.temperature))
        # random() < 1, so that a token of weight 0 is never picked.
        place = np.searchsorted(cumulative[:-1], self._random.random() * cumulative[-1], side="right")
        return int(tokens[place])


def _checked_argmax(logits: npt.NDArray[Any]) -> int:
    """The first of the highest logits; one look at each logit tells whether all are usable."""
    if logits.ndim != 1 or not logits.size:
        raise LogitsError(f"logits must be one row of the vocabulary, not of shape {logits.shape}")
    likeliest = int(logits.argmax())  # of a NaN if there is any
    peak = float(logits[likeliest])
    if math.isfinite(peak):
        return likeliest
    if peak == -np.inf:
        raise LogitsError(f"all {logits.size} logits are -inf, which leaves no token to pick")
    name, wrong = ("NaN", np.isnan(logits)) if np.isnan(peak) else ("+inf", np.isposinf(logits))
    tokens = np.flatnonzero(wrong).tolist()
    raise LogitsError(
        f"{len(tokens)} of {logits.size} logits are {name}: the model's arithmetic went wrong", tokens
    )


def _likeliest(logits: npt.NDArray[Any], top_k: int) -> npt.NDArray[Any]:
    """The ids of the top_k highest logits (0: of all), highest first, of equals the lowest id first.

    What is ruled out is left out. Only what reaches the k-th highest logit is sorted; argpartition alone
    would leave it to the platform which of several equal logits make the cut.
    """
    candidates = np.flatnonzero(logits > -np.inf)
    if 0 < top_k < candidates.size:
        candidates = np.flatnonzero(logits >= _lower_bound(logits, top_k))
        candidates = candidates[logits[candidates] >= _kth_highest(logits[candidates], top_k)]
    order = np.argsort(-logits[candidates], kind="stable")
    likeliest: npt.NDArray[np.intp] = candidates[order[: top_k or None]]
    return likeliest


def _kth_highest(values: npt.NDArray[Any], k: int) -> float:
    return float(np.partition(values, -k)[-k])


def _lower_bound(logits: npt.NDArray[Any], k: int) -> float:
    """At least k logits reach it, and few more; to find it is much less work than to partition all.

    The k-th highest of the groups' maxima is reached in k groups, and so by k logits.
    """
    num_groups = logits.size // GROUP_SIZE
    if num_groups < k:
        return LOWEST
    maxima = logits[: num_groups * GROUP_SIZE].reshape(GROUP_SIZE, num_groups).max(axis=0)
    return max(_kth_highest(maxima, k), LOWEST)


def _top_p(logits: npt.NDArray[Any], top_p: float) -> npt.NDArray[Any]:
    """The shortest start of the descending logits whose probabilities sum to top_p, at least one."""
    if top_p >= 1:
        return logits
    cumulative = np.cumsum(_weights(logits, temperature=1))
    return logits[: 1 + int(np.searchsorted(cumulative, top_p * cumulative[-1], side="left"))]


def _min_p(logits: npt.NDArray[Any], min_p: float) -> npt.NDArray[Any]:
    """Those of the descending logits whose probability is at least min_p times the first's."""
    if min_p <= 0:
        return logits
    num_kept = np.count_nonzero(logits >= logits[0] + math.log(min_p))
    return logits[:num_kept]


def _weights(logits: npt.NDArray[Any], temperature: float) -> npt.NDArray[Any]:
    """Probabilities up to a common factor, of descending logits; the first is 1."""
    with np.errstate(over="ignore"):  # towards -inf, at tiny temperatures
        weights: npt.NDArray[Any] = np.exp((logits - logits[0]) / temperature)
    return weights


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, float | int | np.floating | np.integer):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return float(value)


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    return int(value)
