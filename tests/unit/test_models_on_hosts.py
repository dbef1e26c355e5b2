"""Models whose ranks stand on several hosts compute what one rank does: of every kind, and either way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import recurrent_models
from tests.models import LIMITS, Floats, LocalEngine, make_spec, write_llama
from tests.several_hosts import engine_on_hosts
from tests.unit.test_experts import experts_spec
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.limits import Limits

TOKENS = np.random.default_rng(3).integers(0, 40, 21).tolist()
LAYOUTS = pytest.mark.parametrize("hosts", [(0, 1), (0, 0, 1), (0, 1, 1, 2), (0, 1, 2)], ids=str)


def write_dense(path: Path) -> Limits:
    write_llama(path, make_spec())
    return LIMITS


def write_experts(path: Path) -> Limits:
    write_llama(path, experts_spec())
    return LIMITS


def write_recurrent(path: Path) -> Limits:
    recurrent_models.mamba2().write(path)
    return recurrent_models.LIMITS


MODELS: dict[str, Callable[[Path], Limits]] = {
    "dense": write_dense,
    "experts": write_experts,
    "recurrent": write_recurrent,
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


def logits_of(engine: LocalEngine) -> Floats:
    return all_logits(engine, TOKENS)


@EVERY_MODEL
@LAYOUTS
@pytest.mark.parametrize("host_sums", [False, True])
def test_any_layout_gives_the_same(
    tmp_path: Path, name: str, hosts: tuple[int, ...], host_sums: bool
) -> None:
    path = tmp_path / "model.gguf"
    limits = MODELS[name](path)
    expected = logits_of(LocalEngine(path, limits=limits))
    with engine_on_hosts(path, hosts, host_sums=host_sums, limits=limits) as engine:
        found = logits_of(engine)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


def test_one_rank_a_host_gives_the_bits_of_one_host(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_dense(path)
    with engine_on_hosts(path, (0, 1, 2)) as engine:
        assert logits_of(engine).tobytes() == logits_of(LocalEngine(path, (1, 1, 1))).tobytes()


@EVERY_MODEL
@pytest.mark.parametrize(("wire", "tolerance"), [("bf16", 0.05), ("q8", 0.1)])
@pytest.mark.parametrize("host_sums", [False, True])
def test_rounded_sums_give_nearly_the_same(
    tmp_path: Path, name: str, wire: str, tolerance: float, host_sums: bool
) -> None:
    """Routes themselves are never rounded. Yet now and then a row goes to other experts for want of bits."""
    path = tmp_path / "model.gguf"
    limits = MODELS[name](path)
    expected = logits_of(LocalEngine(path, limits=limits))
    options = {"limits": limits, "shares_routing": name == "experts"}
    with engine_on_hosts(path, (0, 1, 1), wire, host_sums, **options) as engine:
        found = logits_of(engine)
    assert found.tobytes() != expected.tobytes()
    assert np.percentile(np.abs(found - expected), 90) <= tolerance * float(np.abs(expected).max())
