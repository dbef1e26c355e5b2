"""Every architecture against llama.cpp's logits: all splits, all ranks of a model in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from tests.conformance.conftest import Reference, error
from tests.conftest import manifest_of
from tests.drivers import FINDERS, driver_variables, find_lavapipe
from tests.models import LocalEngine, open_model
from tests.same_bits import Bench, assert_same_bits
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.text_logits import all_logits
from tplaunch.coordinator.split.exchanges import num_all_reduces
from tplaunch.coordinator.split.limits import Limits
from tplaunch.coordinator.split.model_shards import rank_shards
from tplaunch.coordinator.split.plan import EXPERT_SPLITS, make_plan
from tplaunch.worker.cpu.code import Kernels
from tplaunch.worker.cpu.device import CpuDevice
from tplaunch.worker.device import Device, DeviceId
from tplaunch.worker.measuring.measurements import cache_folder
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.programs.transformer import build_program
from tplaunch.worker.vulkan.device import VulkanDevice

MODELS = (
    "llama-dense", "llama-moe", "qwen2-dense", "qwen3-dense", "qwen2moe-moe", "qwen3moe-moe",
    "qwen3next-moe", "qwen35-dense", "qwen35moe-moe", "gemma-dense", "gemma2-dense", "gemma3-dense",
    "phi2-dense", "phi3-dense", "phimoe-moe", "mistral3-dense", "mistral4-moe", "command-r-dense",
    "cohere2-dense", "gpt-oss-moe", "granite-dense", "granitemoe-moe", "glm4-dense", "glm4moe-moe",
    "chatglm-dense", "olmo2-dense", "olmoe-moe", "smollm3-dense", "starcoder2-dense", "stablelm-dense",
    "falcon-dense", "gpt2-dense", "gptneox-dense", "bloom-dense", "mpt-dense", "deepseek2-moe",
    "internlm2-dense", "baichuan-dense", "exaone4-dense", "ernie4_5-moe-moe", "hunyuan-moe-moe",
    "hunyuan-dense-dense", "minimax-m2-moe", "seed_oss-dense", "nemotron-dense", "llama4-moe",
    "bailingmoe2-moe", "dots1-moe", "lfm2-dense", "mamba2-dense",
)  # fmt: skip
SAMPLE = (  # of every kind of layer one
    "llama-moe", "qwen3next-moe", "gemma2-dense", "gpt-oss-moe", "bloom-dense", "deepseek2-moe", "llama4-moe",
    "mamba2-dense", "lfm2-dense",
)  # fmt: skip
LIMITS = Limits(
    context_length=64,
    num_blocks=8,
    block_length=8,
    max_rows=64,
    max_logit_rows=64,
    kv_type="f32",
    num_slots=1,
    num_window_blocks=8,
)
MAX_ERROR = {"f32": 1e-6, "f16": 1e-5}  # normalised mean squared, by KV type

Floats = npt.NDArray[np.float32]
Opener = Callable[[Limits], Device]


@pytest.fixture(params=["lavapipe", "numpy", "cpu"])
def open_device(request: pytest.FixtureRequest) -> Iterator[Opener]:
    """Opens NumPy's device, a processor or a driver's, and closes those after the test."""
    if request.param == "numpy":
        yield NumpyDevice
        return
    if request.param == "cpu":
        kernels = Kernels(cache_folder())
        yield lambda limits: CpuDevice(limits, kernels, num_threads=3)
        return
    opened: list[Device] = []
    validate = request.config.getoption("--validate")

    def open_vulkan(limits: Limits) -> Device:
        opened.append(VulkanDevice(DeviceId(0), RankOptions(validate=validate), limits))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        for name, value in driver_variables(manifest_of(FINDERS[request.param]())).items():
            patch.setenv(name, value)
        yield open_vulkan
    for device in opened:
        device.close()


def logits_of(
    path: Path, reference: Reference, open_device: Opener, limits: Limits, num_ranks: int
) -> Floats:
    engine = LocalEngine(path, [1.0] * num_ranks, limits, open_device)
    return all_logits(engine, reference["tokens"].tolist())


def check(
    name: str,
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
    open_device: Opener,
    limits: Limits,
    num_ranks: int,
) -> None:
    reference = reference_of(name)
    found = error(logits_of(build(name), reference, open_device, limits, num_ranks), reference)
    assert found <= MAX_ERROR[limits.kv_type]
    assert found < reference["swap_nmse"] / 100, "the model hardly tells one order of tokens from another"


def test_every_reference_model_is_tried(builder: ModuleType) -> None:
    assert sorted(MODELS) == sorted(builder.specs())


@pytest.mark.parametrize(
    ("num_ranks", "kv_type"), [(1, "f32"), (2, "f32"), (3, "f32"), (4, "f32"), (2, "f16")]
)
@pytest.mark.parametrize("name", MODELS)
def test_prefill(
    name: str,
    num_ranks: int,
    kv_type: str,
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
    open_device: Opener,
) -> None:
    """In one go."""
    limits = dataclasses.replace(LIMITS, kv_type=kv_type)
    check(name, build, reference_of, open_device, limits, num_ranks)


@pytest.mark.parametrize("weights", [(3, 1), (1, 0, 2.5), (5, 1, 1, 0, 1, 2, 1, 1)])
@pytest.mark.parametrize("name", MODELS)
def test_uneven_shares(
    name: str,
    weights: tuple[float, ...],
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
    open_device: Opener,
) -> None:
    """More ranks than heads, ranks without anything; experts are dealt out whole to see that, too."""
    reference = reference_of(name)
    for expert_split in EXPERT_SPLITS if name.endswith("-moe") else EXPERT_SPLITS[:1]:
        engine = LocalEngine(build(name), weights, LIMITS, open_device, expert_split=expert_split)
        logits = all_logits(engine, reference["tokens"].tolist())
        assert error(logits, reference) <= MAX_ERROR["f32"], expert_split


@pytest.mark.parametrize("name", MODELS)
def test_float16_files(
    name: str,
    build: Callable[..., Path],
    reference_of: Callable[[str], Reference],
    open_device: Opener,
) -> None:
    """Tables of vectors are float16, too."""
    reference = reference_of(name)
    logits = logits_of(build(name, "F16"), reference, open_device, LIMITS, num_ranks=2)
    assert error(logits, reference) <= MAX_ERROR["f32"]


@pytest.mark.parametrize("max_rows", [1, 7])
@pytest.mark.parametrize("name", MODELS)
def test_a_few_rows_at_a_time(
    name: str,
    max_rows: int,
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
    open_device: Opener,
) -> None:
    """Token by token it is decode."""
    limits = dataclasses.replace(LIMITS, max_rows=max_rows, max_logit_rows=max_rows)
    check(name, build, reference_of, open_device, limits, num_ranks=2)


@pytest.mark.parametrize(
    ("open_device", "name"),
    [*(("mesa", name) for name in MODELS), *(("swiftshader", name) for name in SAMPLE)],
    indirect=["open_device"],
)
def test_other_drivers(
    name: str,
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
    open_device: Opener,
) -> None:
    """By nines and a last row alone, which is decode. Of SwiftShader a sample: it takes long to compile."""
    limits = dataclasses.replace(LIMITS, max_rows=9, max_logit_rows=9, kv_type="f16")
    check(name, build, reference_of, open_device, limits, num_ranks=2)


@pytest.mark.parametrize(
    ("open_device", "name"),
    [
        *((device, name) for device in ("numpy", "cpu") for name in MODELS),
        *(("lavapipe", name) for name in SAMPLE),
    ],
    indirect=["open_device"],
)
def test_the_same_bits_in_any_company(name: str, build: Callable[[str], Path], open_device: Opener) -> None:
    """Three sequences side by side, in steps of any rows, against each alone in one step."""
    path = build(name)
    is_recurrent = any(layer.recurrent is not None for layer in open_model(path)[1].layers)
    limits = dataclasses.replace(
        LIMITS,
        num_blocks=24,
        num_window_blocks=24,
        max_sequences=3,
        num_slots=3 if is_recurrent else 0,
        kv_type="f16",
    )
    for expert_split in EXPERT_SPLITS if name.endswith("-moe") else EXPERT_SPLITS[:1]:
        engine = LocalEngine(path, (1, 2, 1), limits, open_device, expert_split=expert_split)
        assert_same_bits(Bench(engine, limits), (61, 37, 5), seed=0)


@pytest.fixture
def open_by_turns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Opens a device for each rank: lavapipe's where it is said to be a card, or a processor's."""
    for variable, value in driver_variables(manifest_of(find_lavapipe())).items():
        monkeypatch.setenv(variable, value)
    opened, kernels = list[Device](), Kernels(cache_folder())
    are_cards: tuple[bool, ...] = request.param

    def open_next(limits: Limits) -> Device:
        is_card = are_cards[len(opened) % len(are_cards)]
        opened.append(
            VulkanDevice(DeviceId(0), RankOptions(), limits)
            if is_card
            else CpuDevice(limits, kernels, num_threads=2)
        )
        return opened[-1]

    yield open_next
    for device in opened:
        device.close()


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
@pytest.mark.parametrize(
    ("open_by_turns", "weights", "expert_weights"),
    [((True, False), (1, 0), (0, 1)), ((False, True, True, False), (0, 3, 1, 0), (1, 0, 0, 2))],
    indirect=["open_by_turns"],
)
@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-moe")])
def test_experts_on_processors_and_all_else_on_cards(
    name: str,
    open_by_turns: Opener,
    weights: tuple[float, ...],
    expert_weights: tuple[float, ...],
    kv_type: str,
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
) -> None:
    """Processors first, too, though these have no part of the vocabulary."""
    reference, limits = reference_of(name), dataclasses.replace(LIMITS, kv_type=kv_type)
    engine = LocalEngine(build(name), weights, limits, open_by_turns, expert_weights=expert_weights)
    logits = all_logits(engine, reference["tokens"].tolist())
    assert error(logits, reference) <= MAX_ERROR[kv_type]


@pytest.mark.parametrize("open_by_turns", [(True, False)], indirect=True)
@pytest.mark.parametrize("name", [name for name in SAMPLE if name.endswith("-moe")])
def test_the_same_bits_with_experts_on_processors(
    name: str, open_by_turns: Opener, build: Callable[[str], Path]
) -> None:
    path = build(name)
    is_recurrent = any(layer.recurrent is not None for layer in open_model(path)[1].layers)
    limits = dataclasses.replace(
        LIMITS,
        num_blocks=24,
        num_window_blocks=24,
        max_sequences=3,
        num_slots=3 if is_recurrent else 0,
        kv_type="f16",
    )
    engine = LocalEngine(path, (1, 0), limits, open_by_turns, expert_weights=(0, 1))
    assert_same_bits(Bench(engine, limits), (61, 37, 5), seed=0)


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_all_reduces_are_counted(name: str, num_ranks: int, build: Callable[[str], Path]) -> None:
    """As the coordinator counts them for the ledger, which never sees a program."""
    file, spec = open_model(build(name))
    share = make_plan(spec, [1.0] * num_ranks)[0]
    shards = rank_shards(spec, share, file.tensors)
    for logit_rows in (0, 1):
        program = build_program(spec, share, shards, num_ranks, 4, logit_rows)
        assert program.num_all_reduces == num_all_reduces(spec, num_ranks, logit_rows > 0)


@pytest.mark.parametrize("split", EXPERT_SPLITS)
@pytest.mark.parametrize("staging", [False, True])
@pytest.mark.parametrize("name", ["qwen2moe-moe", "bailingmoe2-moe"])
def test_experts_on_unequal_devices(
    name: str,
    staging: bool,
    split: str,
    build: Callable[[str], Path],
    reference_of: Callable[[str], Reference],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks on lavapipe, one on NumPy, which is told where rows go."""
    for variable, value in driver_variables(manifest_of(find_lavapipe())).items():
        monkeypatch.setenv(variable, value)
    opened: list[Device] = []

    def open_next(limits: Limits) -> Device:
        options = RankOptions(staging=staging)
        opened.append(NumpyDevice(limits) if len(opened) == 1 else VulkanDevice(DeviceId(0), options, limits))
        return opened[-1]

    reference = reference_of(name)
    engine = LocalEngine(
        build(name), [1.0, 2.0, 1.0], LIMITS, open_next, expert_split=split, shares_routing=True
    )
    logits = all_logits(engine, reference["tokens"].tolist())
    for device in opened:
        device.close()
    assert error(logits, reference) <= MAX_ERROR["f32"]
