"""Rounded rows of prompts, by matrices of float16 or as integers: chosen where they are faster and right."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.drivers import FINDERS
from tests.lone_worker import opened_worker
from tests.models import LIMITS, write_llama
from tests.steps import Rows, step_of
from tests.vulkan.conftest import select_driver
from tests.vulkan.reused_device import ReusedDevice
from tests.vulkan.test_steps import SPEC, TYPES
from tests.wrong_kernels import wrong_kernel
from tplaunch.coordinator.messages import Step, Wanted
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import AUTO
from tplaunch.shaders.load import load_kernel
from tplaunch.worker.vulkan import pipelines
from tplaunch.worker.vulkan.measuring import rivals, tuning
from tplaunch.worker.vulkan.measuring.tuning import Tuner

PROMPT = tuple(range(3, 14))
WANTED = Wanted(whole_rows=np.zeros(1, np.int32))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No measurement is there yet."""
    monkeypatch.setattr(tuning, "cache_folder", lambda: tmp_path / "tplaunch")


@pytest.fixture(params=FINDERS)
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, where the driver has matrices."""
    select_driver(monkeypatch, request.param)
    device = ReusedDevice(RankOptions())
    has_matrices, name = device.has_matrices, device.info.name
    device.close()
    if not has_matrices:
        pytest.skip(f"{name} has no cooperative matrices (make test-matrices)")
    write_llama(tmp_path / "model.gguf", SPEC, TYPES, biases=True)
    return tmp_path / "model.gguf"


def logits(model: Path, activations: str, *steps: Step) -> list[bytes]:
    """Returns the logits of each step, which was multiplied as was wanted."""
    limits = dataclasses.replace(LIMITS, activations=activations)
    with opened_worker(model, model.parent, limits, 0) as worker:
        return [worker.run(step).logits.tobytes() for step in steps]


def prompt_and_text() -> tuple[Step, Step]:
    """A step of a prompt, and one of a token behind it."""
    tables = {0: range(LIMITS.blocks_per_seat)}
    prompt = step_of(1, [Rows(PROMPT)], [len(PROMPT) - 1], tables)
    text = step_of(2, [Rows([5], len(PROMPT))], [0], tables)
    return dataclasses.replace(prompt, wanted=WANTED, of_prompts=True), dataclasses.replace(
        text, wanted=WANTED
    )


@pytest.mark.parametrize(("advantage", "same_as"), [(np.inf, "f16"), (0.0, "f32")])
def test_what_measured_faster_is_chosen_and_kept(
    model: Path, monkeypatch: pytest.MonkeyPatch, advantage: float, same_as: str
) -> None:
    monkeypatch.setattr(rivals, "ADVANTAGE", advantage)
    steps = prompt_and_text()
    chosen = logits(model, AUTO, *steps)
    assert chosen == logits(model, same_as, *steps)
    assert (chosen == logits(model, "f32", *steps)) is (same_as == "f32")

    def compare(*arguments: Any) -> bool:
        raise AssertionError("measured")

    monkeypatch.setattr(Tuner, "times", compare)
    monkeypatch.setattr(Tuner, "tune", lambda *arguments: None)  # which has more to measure at each start
    assert logits(model, AUTO, *steps) == chosen


def test_wrong_matrices_are_said_and_not_used(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "ADVANTAGE", np.inf)

    def load(name: str) -> bytes:
        return wrong_kernel(name) if name.startswith("matrices_") else load_kernel(name)

    monkeypatch.setattr(pipelines, "load_kernel", load)
    limits = dataclasses.replace(LIMITS, activations=AUTO)
    with opened_worker(model, model.parent, limits, 0) as worker:
        assert worker.activations_of_prompts == "f32"
        assert any(
            note.startswith("prompts are multiplied in float32: ") and "wrong numbers" in note
            for note in worker.notes
        )


@pytest.mark.parametrize(("advantage", "prompts"), [(np.inf, "q8"), (0.0, "f32")])
def test_integers_are_for_prompts_where_they_are_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, advantage: float, prompts: str
) -> None:
    """Else these rows stay floats, whatever generated ones are."""
    select_driver(monkeypatch, "lavapipe")
    monkeypatch.setattr(rivals, "ADVANTAGE", advantage)
    write_llama(tmp_path / "model.gguf", SPEC, TYPES, biases=True)
    step, _ = prompt_and_text()
    floats = logits(tmp_path / "model.gguf", "f32", step)
    with opened_worker(
        tmp_path / "model.gguf", tmp_path, dataclasses.replace(LIMITS, activations="q8"), 0
    ) as worker:
        assert worker.activations_of_prompts == prompts
        found = [worker.run(step).logits.tobytes()]
    assert (found == floats) is (prompts == "f32")
