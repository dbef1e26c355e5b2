"""A sequence's logits are the same bits alone, in company and in any chunks, on devices of processors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import LocalEngine, examples
from tests.same_bits import KINDS, LENGTHS, RANKS, WRITERS, Bench, assert_same_bits, limits_of
from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.cpu.code import Kernels
from tplaunch.worker.cpu.device import CpuDevice
from tplaunch.worker.device import Device
from tplaunch.worker.measuring.measurements import cache_folder
from tplaunch.worker.numpy import by_row as products
from tplaunch.worker.numpy.by_row import by_row
from tplaunch.worker.numpy.device import NumpyDevice

DEVICES: dict[str, Callable[[Limits], Device]] = {
    "cpu": lambda limits: CpuDevice(limits, Kernels(cache_folder())),
    "numpy": NumpyDevice,
}


@pytest.fixture(scope="module")
def benches() -> dict[tuple[str, str, int], Bench]:
    """By device, kind of model and number of ranks."""
    return {}


@pytest.mark.parametrize("device", DEVICES)
@KINDS
@RANKS
@given(lengths=LENGTHS, seed=st.integers(0, 999))
@examples(3)
def test_logits(
    benches: dict[tuple[str, str, int], Bench],
    tmp_path_factory: pytest.TempPathFactory,
    device: str,
    kind: str,
    weights: list[float],
    lengths: tuple[int, ...],
    seed: int,
) -> None:
    key = (device, kind, len(weights))
    if key not in benches:
        path = tmp_path_factory.mktemp("models") / "model.gguf"
        WRITERS[kind](path)
        engine = LocalEngine(path, weights, limits_of(kind), open_device=DEVICES[device])
        benches[key] = Bench(engine, limits_of(kind))
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
