"""Embeddings of a step of one row are kept, and the same bits as those of many."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from tests.models import SPEC
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.worker.step import embeddings
from tplaunch.worker.step.embeddings import Embeddings
from tplaunch.worker.weights.source import WeightSource

TOKENS = np.random.default_rng(0).normal(size=(48, 32)).astype(np.float32)
POSITIONS = np.random.default_rng(1).normal(size=(64, 32)).astype(np.float32)


class Held:
    """Weights in memory."""

    def rows(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        return TOKENS.view(np.uint8)

    def floats(self, tensor: TensorInfo) -> npt.NDArray[np.float32]:
        return POSITIONS


def opened(scale: float = 1.0, positions: str = "") -> Embeddings:
    spec = dataclasses.replace(SPEC, embedding_scale=scale, position_embeddings=positions)
    shape: dict[str, Any] = {"type": "F32", "shape": TOKENS.shape, "offset": 0, "nbytes": TOKENS.nbytes}
    tensors = {name: TensorInfo(name=name, **shape) for name in ("token_embd.weight", "position_embd.weight")}
    return Embeddings(cast(WeightSource, Held()), spec, tensors)


def ints(*numbers: int) -> npt.NDArray[np.int32]:
    return np.array(numbers, np.int32)


@pytest.mark.parametrize("scale", [1.0, 3.5])
@pytest.mark.parametrize("positions", ["", "position_embd.weight"])
@pytest.mark.parametrize("num_kept", [1, 1000])
def test_a_row_alone_has_the_same_bits_as_among_others(
    monkeypatch: pytest.MonkeyPatch, scale: float, positions: str, num_kept: int
) -> None:
    monkeypatch.setattr(embeddings, "KEPT_BYTES", num_kept * 32 * 4)
    tokens, places = ints(3, 40, 3, 3, 40, 7), ints(0, 5, 9, 0, 63, 9)
    made = opened(scale, positions)
    together = made.rows(tokens, places)
    for row, (token, place) in enumerate(zip(tokens, places)):
        assert made.rows(ints(token), ints(place)).tobytes() == together[row].tobytes()


def test_a_token_that_comes_again_is_not_widened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, widened = opened(), list[list[int]]()
    widen = made._widened

    def counted(tokens: list[int]) -> npt.NDArray[np.float32]:
        widened.append(tokens)
        return widen(tokens)

    monkeypatch.setattr(made, "_widened", counted)
    for token in (3, 40, 3, 40, 3):
        made.rows(ints(token), ints(0))
    assert widened == [[3], [40]]
