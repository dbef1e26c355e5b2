"""Gathers the embeddings of a step's tokens from the mapped file: the first stage's input."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.step.checks import Ints
from tplaunch.worker.weights.source import WeightSource

Floats = npt.NDArray[np.float32]
KEPT_BYTES = 4 << 20  # of the tokens that came last


class Embeddings:
    """The embedding matrix, and that of positions where the model has learned them."""

    def __init__(self, weights: WeightSource, spec: ModelSpec, tensors: Mapping[str, TensorInfo]) -> None:
        self._spec = spec
        embeddings = tensors["token_embd.weight"]
        self._token_rows, self._format = weights.rows(embeddings), FORMATS[embeddings.type]
        self._positions = None
        if spec.position_embeddings:
            self._positions = weights.floats(tensors[spec.position_embeddings])
        # A text has few tokens again and again, and a step of one waits for its row.
        num_kept = max(1, KEPT_BYTES // (4 * spec.embedding_length))
        self._widened_once = lru_cache(num_kept)(lambda token: self._widened([token]))

    def rows(self, token_ids: Ints, positions: Ints) -> Floats:
        """Returns what the first layer reads of these tokens [tokens, embedding_length], to be read only."""
        if token_ids.size == 1:
            rows = self._widened_once(token_ids.item())
        else:
            rows = self._widened(token_ids)
        return rows if self._positions is None else rows + self._positions[positions]

    def _widened(self, token_ids: Ints | list[int]) -> Floats:
        rows = self._format.widen(self._token_rows[token_ids], self._spec.embedding_length)
        if self._spec.embedding_scale != 1:
            rows *= np.float32(self._spec.embedding_scale)
        return rows
