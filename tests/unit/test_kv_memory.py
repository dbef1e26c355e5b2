"""Tests the memory of sequences: blocks behind a window are given back, states fork, blocks are copied."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests import models, recurrent_models
from tests.models import LIMITS, LocalEngine, make_spec, write_llama
from tests.steps import Rows, step_of
from tplaunch.coordinator.model.attention import Window
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.plan import PlanError

Floats = npt.NDArray[np.float32]
TOKENS = np.random.default_rng(3).integers(0, 48, 60).tolist()
WINDOWS = {
    "some": (Window(10), None),
    "all": (Window(10), Window(7)),
    "chunked": (None, Window(10, chunked=True)),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_llama(path, make_spec())
    return path


@pytest.fixture(params=WINDOWS)
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Gives every model that is opened these windows."""
    opened = models.open_model

    def with_windows(path: Path) -> tuple[object, ModelSpec]:
        file, spec = opened(path)
        layers = []
        for layer, window in zip(spec.layers, WINDOWS[request.param], strict=True):
            assert layer.attention is not None
            layers.append(
                dataclasses.replace(layer, attention=dataclasses.replace(layer.attention, window=window))
            )
        return file, dataclasses.replace(spec, layers=tuple(layers))

    monkeypatch.setattr(models, "open_model", with_windows)
    yield request.param


def assert_close(found: Floats, expected: Floats) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("weights", [(1,), (1, 1, 1)], ids=str)
def test_a_window_needs_few_blocks(path: Path, windows: str, weights: tuple[float, ...]) -> None:
    """Blocks that slid out are used again at once, and what lies in them then is not read."""
    expected = all_logits(LocalEngine(path), TOKENS)
    few = dataclasses.replace(
        LIMITS,
        num_blocks=0 if windows == "all" else LIMITS.num_blocks,
        num_window_blocks=5,  # 20 positions: the window, and up to 8 rows of a step
        max_rows=8,
    )
    engine = LocalEngine(path, weights, few)
    found = all_logits(engine, TOKENS)
    assert_close(found, expected)


def test_a_pool_that_a_layer_needs_has_blocks(path: Path, windows: str) -> None:
    with pytest.raises(PlanError, match=r"layer [01] keeps keys and values, but num_window_blocks is 0"):
        LocalEngine(path, limits=dataclasses.replace(LIMITS, num_window_blocks=0))
    if windows != "all":
        with pytest.raises(PlanError, match=r"layer [01] keeps keys and values, but num_blocks is 0"):
            LocalEngine(path, limits=dataclasses.replace(LIMITS, num_blocks=0))


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("weights", [(1,), (1, 2)], ids=str)
def test_two_sequences_part_by_a_copy_of_a_block(
    path: Path, windows: str, weights: tuple[float, ...], kv_type: str
) -> None:
    """Both begin with six tokens; their second blocks differ from the middle on, and one is a copy."""
    limits = dataclasses.replace(LIMITS, kv_type=kv_type)
    table = {0: [7, 3]}

    def run(shared: bool) -> Floats:
        engine = LocalEngine(path, weights, limits)
        tokens = TOKENS[:6]
        if not shared:
            tables = table | {1: [9, 11]}
            engine.run(step_of(1, [Rows(tokens), Rows(tokens, seat=1)], [], tables, tables))
            return engine.logits(step_of(2, [Rows([5], 6), Rows([9, 9], 6, seat=1)], [0, 1, 2]))
        engine.run(step_of(1, [Rows(tokens)], [], table, table))
        changes = [1, 0, 7, 1, 1, 30]
        return engine.logits(
            step_of(
                2, [Rows([5], 6), Rows([9, 9], 6, seat=1)], [0, 1, 2], changes, changes,
                copies=[3, 30], window_copies=[3, 30],
            )
        )  # fmt: skip

    assert_close(run(shared=True), run(shared=False))


@pytest.mark.parametrize("name", ["lfm2", "mamba2", "qwen35"])
@pytest.mark.parametrize("weights", [(1,), (1, 1)], ids=str)
def test_sequences_fork_from_a_state_that_stays(
    name: str, weights: tuple[float, ...], tmp_path: Path
) -> None:
    build = {"lfm2": recurrent_models.lfm2, "mamba2": recurrent_models.mamba2}
    model = build[name]() if name in build else recurrent_models.delta(name)
    path, limits = model.write(tmp_path / "model.gguf"), recurrent_models.LIMITS
    tokens = TOKENS[:6]
    engine = LocalEngine(path, weights, limits)
    tables = {seat: [0, 1 + seat] for seat in range(3)}
    begun = [Rows(tokens[:5], seat=seat, write_slot=seat) for seat in range(3)]
    alone = LocalEngine(path, weights, limits)
    alone.run(step_of(1, begun, [], {seat: [2 * seat, 2 * seat + 1] for seat in range(3)}))
    rows = [Rows([seat + 1, 7], 5, seat, seat, seat) for seat in range(3)]
    expected = alone.logits(step_of(2, rows, range(6)))

    engine.run(step_of(1, [Rows(tokens[:5], write_slot=0)], [], tables))
    copies = [1, 2, 1, 3]  # the fifth token's keys; the first block is shared
    forks = [Rows([seat + 1, 7], 5, seat, 0, seat) for seat in (1, 2)]
    found = engine.logits(step_of(2, forks, range(4), copies=copies))
    assert_close(found, expected[2:])
    last = engine.logits(step_of(3, [Rows([1, 7], 5, 0, 0, 0)], range(2)))
    assert_close(last, expected[:2])


def test_a_model_without_attention_has_no_blocks(tmp_path: Path) -> None:
    path, limits = recurrent_models.mamba2().write(tmp_path / "model.gguf"), recurrent_models.LIMITS
    none = dataclasses.replace(limits, num_blocks=0)
    engines = [LocalEngine(path, limits=which) for which in (limits, none)]
    with_blocks, without = (all_logits(engine, TOKENS) for engine in engines)
    np.testing.assert_array_equal(with_blocks, without)
