"""Means with their standard errors, and percentiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number that was measured, and its standard error; 0 where there are too few values to tell."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:.6f} +/- {self.stderr:.6f}"


def mean(values: Doubles) -> Estimate:
    """The mean of values, and its standard error: by the variance over all of them, divided by one less.

    That is llama.cpp's formula, and lm-evaluation-harness's, which writes it otherwise.
    """
    average = float(values.mean())
    variance = float((values * values).mean()) - average * average
    error = math.sqrt(variance / (values.size - 1)) if values.size > 1 and variance > 0 else 0.0
    return Estimate(average, error)


def perplexity(nlls: Doubles) -> Estimate:
    """The perplexity of negative log-likelihoods [tokens], with its standard error as llama.cpp has it."""
    found = mean(nlls)
    value = math.exp(found.value) if found.value < 700 else math.inf
    return Estimate(value, value * found.stderr)


def ratio(nlls: Doubles, base_nlls: Doubles) -> Estimate:
    """The perplexity divided by the base's, with the error of what they share left out."""
    found = mean(nlls - base_nlls)
    value = math.exp(min(found.value, 700))
    return Estimate(value, value * found.stderr)


def percentile(values: Doubles, percent: float) -> float:
    """The value below which so many percent lie, interpolated between two."""
    return float(np.percentile(values, percent))
