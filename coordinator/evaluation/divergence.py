"""The Kullback-Leibler divergence of a model's next-token distributions from a base's, token by token."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.evaluation.base_file import SPAN, BaseFile, check_room
from tplaunch.coordinator.evaluation.chunks import Chunks, in_order, nlls_of, read_chunks
from tplaunch.coordinator.evaluation.statistics import Doubles, Estimate, mean, percentile, perplexity, ratio
from tplaunch.coordinator.serving.request import Floats
from tplaunch.coordinator.serving.requests import Requests
from tplaunch.coordinator.serving.sampling.pool import LogitsError

PERCENTILES = (99.9, 99.0, 95.0, 90.0, 50.0)


class Base(Protocol):
    """The distributions with which others are compared."""

    @property
    def floor(self) -> float:
        """The log probability up to which a token counts for nothing."""

    def log_probs(self, chunk: int, index: int) -> Doubles:
        """The log probabilities [vocabulary] from which a scored token was to follow."""


def log_softmax(logits: Floats) -> Doubles:
    """The log probabilities [vocabulary] of a row of logits. Raises LogitsError where they are no numbers."""
    highest = float(logits.max())
    if not np.isfinite(highest):
        raise LogitsError("logits are NaN or infinite: the model's arithmetic went wrong")
    shifted = logits.astype(np.float64) - highest
    found: Doubles = shifted - np.log(np.exp(shifted).sum())
    return found


class KeptRows:
    """Rows of logits in a file without a name, with which those of another run are compared exactly."""

    def __init__(self, chunks: Chunks, vocabulary_size: int) -> None:
        """Raises InputError where the folder for such files has no room for it."""
        shape = (len(chunks), chunks.num_scored, vocabulary_size)
        check_room(Path(tempfile.gettempdir()), 4 * int(np.prod(shape, dtype=np.int64)), "--compare")
        with tempfile.TemporaryFile() as file:
            file.truncate(4 * int(np.prod(shape, dtype=np.int64)))
            self._rows: npt.NDArray[np.float32] = np.memmap(file, np.float32, "r+", 0, shape)

    def take_row(self, chunk: int, index: int, logits: Floats) -> None:
        self._rows[chunk, index] = logits

    @property
    def floor(self) -> float:
        return -np.inf

    def log_probs(self, chunk: int, index: int) -> Doubles:
        return log_softmax(self._rows[chunk, index])


class FileRows:
    """The rows of a base file."""

    def __init__(self, file: BaseFile) -> None:
        self._file = file

    @property
    def floor(self) -> float:
        return -SPAN  # as for llama.cpp

    def log_probs(self, chunk: int, index: int) -> Doubles:
        return self._file.log_probs(chunk, index).astype(np.float64)


class Store(Protocol):
    """Keeps rows of logits for a later comparison."""

    def take_row(self, chunk: int, index: int, logits: Floats) -> None:
        """Keeps the logits [vocabulary] from which a scored token was to follow."""


@dataclass(frozen=True)
class Divergence:
    """The numbers of each scored token [chunks, scored tokens], NaN until they come.

    Without a base only the tokens' own likelihoods are found.
    """

    chunks: Chunks
    base: Base | None = None
    store: Store | None = None
    nlls: Doubles = field(init=False)
    base_nlls: Doubles = field(init=False)
    divergences: Doubles = field(init=False)
    has_same_top: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        shape = (len(self.chunks), self.chunks.num_scored)
        for name in ("nlls", "base_nlls", "divergences"):
            object.__setattr__(self, name, np.full(shape, np.nan))
        object.__setattr__(self, "has_same_top", np.zeros(shape, np.bool_))

    def take_row(self, chunk: int, index: int, logits: Floats) -> None:
        """Compares the logits [vocabulary] from which a scored token was to follow. Raises LogitsError."""
        token, found = self.chunks.scored_token(chunk, index), log_softmax(logits)
        place = chunk, index
        self.nlls[place] = -found[token]
        if self.store is not None:
            self.store.take_row(chunk, index, logits)
        if self.base is None:
            return
        base = self.base.log_probs(chunk, index)
        is_likely = base > self.base.floor
        likely = base[is_likely]
        self.base_nlls[place] = -base[token]
        self.divergences[place] = float((np.exp(likely) * (likely - found[is_likely])).sum())
        self.has_same_top[place] = logits.argmax() == base.argmax()

    @property
    def perplexity(self) -> Estimate:
        """The perplexity of the whole text, once all has come."""
        return perplexity(self.nlls.ravel())

    def computed(self, requests: Requests) -> Iterator[Estimate]:
        """Computes all chunks, and yields the perplexity of the first ones each time another one has come."""
        reads_rows = self.base is not None or self.store is not None
        finished = read_chunks(requests, self.chunks, self.take_row if reads_rows else None)
        for index, request in enumerate(in_order(finished)):
            if not reads_rows:
                self.nlls[index] = nlls_of(request)
            yield perplexity(self.nlls[: index + 1].ravel())


@dataclass(frozen=True)
class DivergenceReport:
    """The numbers that people compare."""

    perplexity: Estimate
    base_perplexity: Estimate
    ratio: Estimate  # of the perplexities
    mean: Estimate  # of the divergences, in nats
    percentiles: dict[float, float]
    largest: float
    same_top: Estimate  # share of tokens whose likeliest one is the base's


def report(found: Divergence) -> DivergenceReport:
    """Returns the numbers of all tokens."""
    nlls, base_nlls, divergences = found.nlls.ravel(), found.base_nlls.ravel(), found.divergences.ravel()
    return DivergenceReport(
        perplexity(nlls),
        perplexity(base_nlls),
        ratio(nlls, base_nlls),
        mean(divergences),
        {percent: percentile(divergences, percent) for percent in PERCENTILES},
        float(divergences.max()),
        mean(found.has_same_top.ravel().astype(np.float64)),
    )
