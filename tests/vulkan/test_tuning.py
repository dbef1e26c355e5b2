"""Measurements are taken at a device's first start, and used at later starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.drivers import FINDERS
from tests.vulkan.cases import limits_for
from tests.vulkan.conftest import Opener
from tests.vulkan.test_attention import attention_op
from tplaunch.worker.device import DeviceError
from tplaunch.worker.jobs.messages import Product, TuningJob
from tplaunch.worker.measuring.measurements import Measurements
from tplaunch.worker.vulkan import pipelines
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.measuring import tuning
from tplaunch.worker.vulkan.measuring.allowance import Runs
from tplaunch.worker.vulkan.measuring.bench import Bench
from tplaunch.worker.vulkan.measuring.trials import Size, Trial
from tplaunch.worker.vulkan.measuring.tuning import SUBMISSION, open_measurements
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.variants import MATVECS, candidates

LIMITS = limits_for(kv_type="f16")
PROGRAM = TuningJob(
    "f16",
    "f32",
    (Product("Q8_0", 96, 64, "f32"), Product("F32", 40, 32, "f32"), Product("Q8_0", 2000, 32, "f32")),
    (attention_op(key_length=16, value_length=8),),
).program()
NAMES = [
    "matvec_q8_0 small",
    "matvec_q8_0 medium",
    "matvec_f32 small",
    "matvec2_q8_0",
    "matvec4_f32",
    "tiled_f32",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty at first."""
    monkeypatch.setattr(tuning, "cache_folder", lambda: tmp_path / "tplaunch")
    return tmp_path / "tplaunch"


def forbid_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*arguments: Any) -> float:
        raise AssertionError("measured")

    monkeypatch.setattr(Bench, "seconds", measure)


@pytest.mark.parametrize("driver", FINDERS)
def test_what_has_several_variants_is_measured_once(
    open_device: Opener, driver: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    device = open_device(driver, LIMITS)
    found = device.tune(PROGRAM, seconds=60)
    for name in [*NAMES, "attention_f16_1", "attention_f16_4"]:
        suffixes = [variant.suffix for variant in candidates(name.split()[0], device.info.features)]
        numbers = found.get(name)
        assert list(numbers) == (suffixes if len(suffixes) > 1 else [])
        assert all(number is not None and 0 < number < 1 for number in numbers.values())
    assert list(found.get(SUBMISSION)) == ["ahead", "then_wait"]
    assert found.path is not None and found.path.parent == cache
    forbid_measuring(monkeypatch)
    again = open_device(driver, LIMITS).tune(PROGRAM)
    assert not again.new
    assert {name: again.get(name) for name in found.new} == found.new


def test_a_processors_caches_are_filled_with_pages_of_their_own(open_device: Opener) -> None:
    """Pages that nobody has written are all one, and fill no cache."""
    device = open_device("lavapipe", LIMITS)
    tuner = tuning.Tuner(device._context, device._pipelines, open_measurements(device.info), {})
    assert tuner._other_data.nbytes == tuning.CACHE_BYTES_OF_CPU and tuner._other_data.all()


def test_matrices_are_measured_with_their_codebooks(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one every weight would be 0, and variants that compute nonsense would seem alike."""
    results = []
    take = Trial.take_results

    def record(trial: Trial, memory: Memory) -> list[bytes]:
        results.append(take(trial, memory))
        return results[-1]

    monkeypatch.setattr(Trial, "take_results", record)
    program = TuningJob("f16", "f32", (Product("IQ2_XS", 40, 256, "f32"),), ()).program()
    device = open_device("lavapipe", LIMITS)
    device.tune(program, seconds=60)
    count = sum(len(candidates(f"{kind}_iq2_xs", device.info.features)) for kind in (*MATVECS, "tiled"))
    assert len(results) == count
    assert all(np.frombuffer(output, np.float32).all() for (output,) in results)


def test_one_variant_is_no_choice(open_device: Opener, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    device = open_device("lavapipe", LIMITS)
    only = {family: candidates(family, ())[:1] for family in (f"{kind}_q8_0" for kind in (*MATVECS, "tiled"))}
    monkeypatch.setattr("tplaunch.worker.vulkan.variants.FAMILIES", only)
    forbid_measuring(monkeypatch)
    device.tune(
        dataclasses.replace(
            TuningJob("f16", "f32", (Product("Q8_0", 96, 64, "f32"),), ()).program(), segments=()
        )
    )
    assert not cache.exists()


def test_what_there_is_no_time_for_is_left_to_the_next_start(open_device: Opener) -> None:
    assert open_device("lavapipe", LIMITS).tune(PROGRAM, seconds=0).new.keys() == {SUBMISSION}
    assert open_device("lavapipe", LIMITS).tune(PROGRAM, seconds=60).new.keys() >= set(NAMES)


def test_on_a_card_only_what_is_timed_uses_up_a_start_s_time(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it compiles, which it does before: four runs of 0.3 s are more than a second."""
    device, events = open_device("lavapipe", LIMITS), []
    device._context.info = dataclasses.replace(device._context.info, type="discrete")
    compile_module, count = pipelines.Pipelines._compile, Runs.count

    def compiled(made: pipelines.Pipelines, module: bytes) -> Any:
        events.append("compiled")
        return compile_module(made, module)

    def timed(allowance: Runs, seconds: float) -> None:
        events.append("timed")
        count(allowance, 0.3)

    monkeypatch.setattr(pipelines.Pipelines, "_compile", compiled)
    monkeypatch.setattr(Runs, "count", timed)
    monkeypatch.setattr(tuning.Tuner, "size", lambda tuner: Size(1 << 14, prompt_rows=3))
    monkeypatch.setattr(tuning.Tuner, "_time_submission", lambda tuner: {"ahead": 1.0, "then_wait": 1.0})
    assert device.tune(PROGRAM, seconds=1.0).new.keys() == {SUBMISSION}
    first = events.index("timed")
    assert events[first:] == ["timed"] * 4 and first > 20


def test_a_variant_with_other_bits_is_not_used(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([[b"right"]] + [[b"wrong"]] * 99)
    monkeypatch.setattr(Trial, "take_results", lambda trial, memory: next(answers))
    device = open_device("lavapipe", LIMITS)
    program = TuningJob("f16", "f32", (Product("Q8_0", 96, 64, "f32"),), ()).program()
    numbers = device.tune(program, seconds=60).get("matvec_q8_0 small")
    first, *others = candidates("matvec_q8_0", device.info.features)
    assert numbers[first.suffix] is not None
    assert [numbers[variant.suffix] for variant in others] == [None] * len(others)
    assert device._selection.variant("matvec_q8_0", 96) is first
    assert "matvec_q8_0_wide computes other bits" in caplog.text


def test_a_device_without_room_measures_nothing(open_device: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise DeviceError("vkAllocateMemory failed with VK_ERROR_OUT_OF_DEVICE_MEMORY")

    device = open_device("lavapipe", LIMITS)
    monkeypatch.setattr("tplaunch.worker.vulkan.memory.allocate_memory", refuse)
    assert not device.tune(PROGRAM).new
    with pytest.raises(DeviceError, match="no room for"):
        device.tune(PROGRAM, anew=True)
    assert device._selection.variant("matvec_q8_0").suffix == "_wide_prefetch"


def keep(device: VulkanDevice, name: str, **seconds: float) -> Measurements:
    measurements = open_measurements(device.info)
    measurements.put(name, dict(seconds))
    measurements.save()
    return measurements


@pytest.mark.parametrize(("option", "ahead"), [(None, False), (True, True), (False, False)])
def test_the_way_to_submit_is_what_was_measured_unless_it_was_given(
    open_device: Opener, option: bool | None, ahead: bool
) -> None:
    device = open_device("lavapipe", LIMITS, submit_ahead=option)
    keep(device, SUBMISSION, ahead=3e-5, then_wait=2e-5)
    device.tune(PROGRAM, seconds=0)
    assert device._timeline._submit_ahead is ahead


def test_a_start_goes_by_what_another_has_measured(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device("lavapipe", LIMITS)
    variants = candidates("matvec_q8_0", device.info.features)
    numbers = {variant.suffix: 2.0 for variant in variants} | {variants[-1].suffix: 1.0}
    keep(device, "matvec_q8_0 small", **numbers)
    device.tune(TuningJob("f16", "f32", (), ()).program())
    assert device._selection.variant("matvec_q8_0", 1024) is variants[-1]
    assert device._selection.variant("matvec_q8_0", 1025) is variants[0]  # of another size
    assert device._selection.variant("matvec4_q8_0", 1024).suffix == variants[0].suffix
