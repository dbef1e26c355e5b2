"""A sequence's logits are the same bits alone, in company and in any chunks, on the NumPy device."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LocalEngine, examples
from tests.same_bits import KINDS, LENGTHS, RANKS, WRITERS, Bench, assert_same_bits, limits_of
from tplaunch.worker.numpy import by_row as products
from tplaunch.worker.numpy.by_row import by_row


@pytest.fixture(scope="module")
def benches() -> dict[tuple[str, int], Bench]:
    """By kind of model and number of ranks."""
    return {}


@KINDS
@RANKS
@given(lengths=LENGTHS, seed=st.integers(0, 999))
@examples(3)
def test_logits(
    benches: dict[tuple[str, int], Bench],
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    weights: list[float],
    lengths: tuple[int, ...],
    seed: int,
) -> None:
    key = (kind, len(weights))
    if key not in benches:
        path = tmp_path_factory.mktemp("models") / "model.gguf"
        WRITERS[kind](path)
        benches[key] = Bench(LocalEngine(path, weights, limits_of(kind)), limits_of(kind))
    assert_same_bits(benches[key], lengths, seed)


@given(
    num_rows=st.integers(1, 40),
    outputs=st.integers(1, 90),
    columns=st.integers(1, 300),
    block_bytes=st.sampled_from([1, 5000, 1 << 20]),
    spare=st.integers(0, 9),
    seed=st.integers(0, 99),
)
@examples(100)
def test_products_of_a_row(
    num_rows: int, outputs: int, columns: int, block_bytes: int, spare: int, seed: int
) -> None:
    """Wherever the row lies in memory, and in however many blocks the matrix is walked."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((num_rows, columns + spare), np.float32)[:, spare:]
    matrix = random.standard_normal((outputs, columns), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "BLOCK_BYTES", block_bytes)
        together = by_row(rows, matrix)
        np.testing.assert_allclose(together, rows @ matrix.T, rtol=1e-3, atol=1e-3)
        for index, row in enumerate(rows):
            assert np.array_equal(by_row(row[None].copy(), matrix)[0], together[index])
