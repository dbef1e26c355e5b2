"""Rounded rows of prompts, by matrices of float16 or as integers: chosen where they are faster and right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import same_bits
from tests.drivers import FINDERS
from tests.lone_worker import opened_worker
from tests.models import LIMITS, LocalEngine, make_spec, write_llama
from tests.same_bits import Bench, assert_same_bits
from tests.steps import Rows, step_of
from tests.vulkan.conftest import Opener, select_driver
from tests.vulkan.reused_device import ReusedDevice
from tests.vulkan.test_steps import TYPES
from tests.wrong_kernels import wrong_kernel
from tplaunch.coordinator.messages import Step, Wanted
from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.model.spec import LayerSpec
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.split.limits import AUTO
from tplaunch.shaders.load import load_kernel
from tplaunch.worker.vulkan import pipelines
from tplaunch.worker.vulkan.measuring import rivals, tuning
from tplaunch.worker.vulkan.measuring.tuning import Tuner

SPEC = make_spec(
    embedding_length=96, num_heads=6, num_kv_heads=3, key_length=16, value_length=16, feed_forward_length=160
)
PROMPT = tuple(range(3, 14))
WANTED = Wanted(whole_rows=np.zeros(1, np.int32))
MAX_ERROR = 1e-5  # of logits: the normalised square that float16 numbers account for
Writer = Callable[[Path], object]


def write_dense(path: Path) -> None:
    """Writes a model of several weight types."""
    write_llama(path, SPEC, TYPES, biases=True)


def write_experts(path: Path) -> None:
    """Writes a model whose experts are all that may be rounded: the rest has float32 weights."""
    spec = make_spec(embedding_length=96)
    experts = ExpertsSpec(count=6, used=2, length=96, normalised=True)
    types = {"ffn_gate_exps.weight": "Q8_0", "ffn_up_exps.weight": "Q8_0", "ffn_down_exps.weight": "Q4_0"}
    layers = (LayerSpec(spec.attentions[0], None, experts=experts),) * 2
    write_llama(path, dataclasses.replace(spec, layers=layers), types, biases=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No measurement is there yet."""
    monkeypatch.setattr(tuning, "cache_folder", lambda: tmp_path / "tplaunch")


@pytest.fixture(params=(write_dense, write_experts), ids=("dense", "experts"))
def write(request: pytest.FixtureRequest) -> Writer:
    """Writes a model of either kind."""
    writer: Writer = request.param
    return writer


@pytest.fixture(params=FINDERS)
def model(
    request: pytest.FixtureRequest, write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A model, where the driver has matrices."""
    select_driver(monkeypatch, request.param)
    device = ReusedDevice(RankOptions())
    has_matrices, name = device.has_matrices, device.info.name
    device.close()
    if not has_matrices:
        pytest.skip(f"{name} has no cooperative matrices (make test-matrices)")
    write(tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def logits(model: Path, activations: str, *steps: Step) -> list[bytes]:
    """Returns the logits of each step, which was multiplied as was wanted."""
    limits = dataclasses.replace(LIMITS, activations=activations, kv_type="f16")
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


@pytest.mark.parametrize(
    ("wrong", "said", "prompts"),
    [
        (("matrices_", "attention_matrices_"), ["are multiplied", "attend"], "f32"),
        (("matrices_",), ["are multiplied"], "f16"),
        (("attention_matrices_",), ["attend"], "f16"),
    ],
)
def test_wrong_matrices_are_said_and_not_used(
    model: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...], said: list[str], prompts: str
) -> None:
    """The kind that is right is used all the same."""
    monkeypatch.setattr(rivals, "ADVANTAGE", np.inf)

    def load(name: str) -> bytes:
        return wrong_kernel(name) if name.startswith(wrong) else load_kernel(name)

    monkeypatch.setattr(pipelines, "load_kernel", load)
    limits = dataclasses.replace(LIMITS, activations=AUTO, kv_type="f16")
    with opened_worker(model, model.parent, limits, 0) as worker:
        assert worker.activations_of_prompts == prompts
        for doing in ("are multiplied", "attend"):
            notes = [note for note in worker.notes if note.startswith(f"prompts {doing} in float32: ")]
            assert ["wrong numbers" in note for note in notes] == [True] * said.count(doing)


@pytest.mark.parametrize("is_wrong", [False, True])
def test_attention_by_matrices_is_without_the_products(
    model: Path, monkeypatch: pytest.MonkeyPatch, is_wrong: bool
) -> None:
    """Where f16 is what the user wants, wrong attention is no reason to refuse."""
    wanted = logits(model, "f16", *prompt_and_text())
    monkeypatch.setattr(
        pipelines,
        "load_kernel",
        lambda name: wrong_kernel(name) if is_wrong and name.startswith("attention_m") else load_kernel(name),
    )
    again = logits(model, "f16", *prompt_and_text())
    assert again != logits(model, "f32", *prompt_and_text())
    assert (again == wanted) is not is_wrong


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
    limits = dataclasses.replace(LIMITS, activations="q8", kv_type="f16")
    with opened_worker(tmp_path / "model.gguf", tmp_path, limits, 0) as worker:
        assert worker.activations_of_prompts == prompts
        found = [worker.run(step).logits.tobytes()]
    assert (found == floats) is (prompts == "f32")


def test_prompts_round_and_what_is_generated_does_not(model: Path) -> None:
    prompt, text = prompt_and_text()
    first = step_of(3, [Rows([5])], [0], {0: range(LIMITS.blocks_per_seat)})
    alone = dataclasses.replace(first, wanted=WANTED)  # generated, with nothing before it
    exact, rounded = (
        [np.frombuffer(found, np.float32) for found in logits(model, kind, prompt, text, alone)]
        for kind in ("f32", "f16")
    )
    assert np.array_equal(exact[2], rounded[2])
    for expected, found in zip(exact[:2], rounded[:2], strict=True):  # the text's keys are the prompt's
        error = np.square(found - expected).sum() / np.square(expected).sum()
        assert 0 < error < MAX_ERROR


@pytest.mark.parametrize(
    ("driver", "activations", "writer"),
    [
        *((driver, "f16", write_experts) for driver in FINDERS),
        *(("lavapipe", "q8", writer) for writer in (same_bits.write_dense, write_experts)),
    ],
)
def test_a_prompt_has_its_bits_in_any_company(
    open_device: Opener, tmp_path: Path, driver: str, activations: str, writer: Writer
) -> None:
    """Also the rows that go to one expert with others; on two ranks, of which each has its columns."""
    limits = dataclasses.replace(same_bits.LIMITS, activations=activations)
    if activations == "f16" and open_device(driver, same_bits.LIMITS)._context.matrices is None:
        pytest.skip(f"{driver} has no cooperative matrices (make test-matrices)")
    writer(tmp_path / "model.gguf")
    engine = LocalEngine(
        tmp_path / "model.gguf", [1.0, 1.0], limits, lambda limits: open_device(driver, limits)
    )
    assert_same_bits(Bench(engine, limits, of_prompts=True), (130, 40, 3), seed=0)
