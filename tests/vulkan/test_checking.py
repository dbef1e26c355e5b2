"""A device that proves itself: wrong kernels are found, and what was found is kept."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from tests.vulkan.cases import limits_for
from tests.vulkan.conftest import ON_VULKAN, Opener, select_driver
from tests.vulkan.reused_device import ReusedDevice
from tests.vulkan.test_attention import attention_op
from tests.wrong_kernels import wrong_kernel
from tplaunch.coordinator.options import FEATURES
from tplaunch.shaders.load import kernel_names, load_kernel
from tplaunch.worker.checking.everything import every_op
from tplaunch.worker.checking.table import SmallOp, small_op
from tplaunch.worker.cpu.checking import CpuChecker
from tplaunch.worker.device import DeviceError, DeviceId
from tplaunch.worker.jobs import check
from tplaunch.worker.jobs.messages import CheckBegun, CheckEnded, CheckJob, CheckList, Product, TuningJob
from tplaunch.worker.ops.attention import Clamp
from tplaunch.worker.ops.common import Op
from tplaunch.worker.ops.recurrent import UnitNorm
from tplaunch.worker.vulkan import pipelines
from tplaunch.worker.vulkan.checking import case_device
from tplaunch.worker.vulkan.checking.checker import Checker
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.dispatch.questions import ask
from tplaunch.worker.vulkan.measuring import tuning
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.timeline import Timeline
from tplaunch.worker.vulkan.variants import Variant, candidates, kernel_of

LIMITS = limits_for(kv_type="f16")
JOB = TuningJob("f16", "f32", (Product("Q8_0", 96, 64, "f32"),), (attention_op(),))
PROGRAMS = [JOB.program()]
MATVEC = "matvec_q8_0"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty at first."""
    monkeypatch.setattr(tuning, "cache_folder", lambda: tmp_path / "tplaunch")
    return tmp_path / "tplaunch"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that were checked, one for each check."""
    found: list[str] = []
    error = Checker.error

    def noted(checker: Checker, op: SmallOp, variant: Any, kernel: str) -> float:
        found.append(kernel)
        return error(checker, op, variant, kernel)

    monkeypatch.setattr(Checker, "error", noted)
    return found


def spoil(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """From now on these kernels are compiled wrong."""
    monkeypatch.setattr(
        pipelines, "load_kernel", lambda name: wrong_kernel(name) if name in names else load_kernel(name)
    )


def first_and_others(device: VulkanDevice) -> tuple[Variant, list[Variant]]:
    """The preferred variant, and those that run another kernel."""
    first, *rest = candidates(MATVEC, device.info.features)
    return first, [one for one in rest if kernel_of(MATVEC, one) != kernel_of(MATVEC, first)]


def one_of_each(features: Collection[str]) -> dict[tuple[type, int], SmallOp]:
    """An op of each type, and of each number of rows that has kernels of its own."""
    found: dict[tuple[type, int], SmallOp] = {}
    for op in every_op(features, False):
        found.setdefault((type(op.op), op.num_rows), op)
    return found


@ON_VULKAN
def test_kernels_are_right(device: ReusedDevice) -> None:
    """Every kind of op; test_check.py, the command's, runs everything there is on one driver."""
    checker = device.checker()
    for op in one_of_each(device.info.features).values():
        asked = checker.ask(op)
        for variant in checker.variants(asked):
            kernel = asked.kernel_of(variant)
            assert checker.error(op, variant, kernel) <= checker.bound(op) / 3, (kernel, op.op)
    checker.close()


def test_kernels_for_processors_are_right() -> None:
    checker = CpuChecker(2, 60)
    runs = list(checker.kernels_of(one_of_each(frozenset()).values()))
    assert len(runs) >= 20
    for op, kernel in runs:
        error, bound = checker.error(op)
        assert error <= bound / 3, (kernel, op.op)


def test_memory_that_a_late_kernel_writes_to_is_left_alone(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lavapipe took so long to compile one that it was given up, and crashed when it ran at last."""
    made: list[Memory] = []
    freed: list[Memory] = []

    class Noted(Memory):
        def __init__(self, context: Context, unmapped: bool) -> None:
            super().__init__(context, unmapped)
            made.append(self)

        def close(self) -> None:
            freed.append(self)
            super().close()

    def waits_in_vain(timeline: Timeline, segment: int) -> None:
        raise DeviceError("segment 0 of the step has not ended after 60 s")

    device = open_device("lavapipe", LIMITS)
    checker, op = device.checker(), next(iter(one_of_each(device.info.features).values()))
    asked = checker.ask(op)
    variant = checker.variants(asked)[0]
    monkeypatch.setattr(case_device, "Memory", Noted)
    with monkeypatch.context() as patch:
        patch.setattr(Timeline, "wait", waits_in_vain)
        with pytest.raises(DeviceError, match="has not ended after 60 s"):
            checker.error(op, variant, asked.kernel)
    assert not freed
    checker.error(op, variant, asked.kernel)
    assert freed == made[1:] and len(made) == 2
    checker.close()  # which waits for what is late
    made[0].close()


def test_every_kernel_is_checked() -> None:
    features, found = (*FEATURES, "cpu", "card"), set()
    for sizes in ((8, 256, 0), (32, 256, 32), (32, 1024, 32)):
        for op in every_op(features, has_matrices=True):
            asked = ask(op.op, op.limits, features, *sizes)
            found.add(asked.kernel)
            if asked.family is not None:
                found |= {asked.kernel_of(variant) for variant in candidates(asked.family, features)}
    of_no_op = {"multiply_adds", "multiply_adds_dot", "matrices_multiply_adds"}  # test_measuring.py
    assert found == set(kernel_names()) - of_no_op


# Kernels without additions, and one in which two changed signs cancel each other.
NO_ADDITIONS = {
    "attention_combine",
    "expert_tiles",
    "expert_tiles_64",
    "copy_heads",
    "clamp_rows",
    "route",
    "quantize_q8",
    "quantize_f16",
    "gather_partials",
    "gather_partials_wide",
    "send_partials",
    "take_partials",
    "take_partials_rounded",
}


def test_every_wrong_kernel_is_found(open_device: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel that adds is replaced by one that adds wrongly."""
    device = open_device("lavapipe", LIMITS)
    monkeypatch.setattr(
        pipelines,
        "load_kernel",
        lambda name: load_kernel(name) if name in NO_ADDITIONS else wrong_kernel(name),
    )
    checker, found = device.checker(), set()
    for op in one_of_each(device.info.features).values():
        asked = checker.ask(op)
        if asked.kernel in NO_ADDITIONS:
            continue
        variant = checker.variants(asked)[0]
        assert checker.error(op, variant, asked.kernel) > 10 * checker.bound(op), (asked.kernel, op.op)
        found.add(asked.kernel)
    assert len(found) > 15
    checker.close()


@pytest.mark.parametrize("driver", ["lavapipe", "swiftshader"])
def test_a_wrong_variant_is_not_used(
    open_device: Opener, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device(driver, LIMITS)
    first, others = first_and_others(device)
    kernel, other = kernel_of(MATVEC, first), kernel_of(MATVEC, others[0])
    spoil(monkeypatch, kernel)
    (note,) = device.prove(PROGRAMS, seconds=600)
    assert note == (
        f"the kernel {kernel} on {device.name} (driver {device.info.driver}) computes wrong"
        f" numbers and is not used; {other} is right"
    )
    assert device._selection.variant(MATVEC, 96) is others[0]
    measured = device.tune(PROGRAMS[0], seconds=60).get(f"{MATVEC} small")
    assert first.suffix not in measured
    assert device._selection.variant(MATVEC, 96) in others
    assert device._selection.variant(MATVEC, 1 << 20) is others[0]  # nothing was measured of that size


def test_what_was_measured_before_does_not_choose_a_wrong_variant(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device("lavapipe", LIMITS)
    first, others = first_and_others(device)
    measurements = tuning.open_measurements(device.info)
    measurements.put(f"{MATVEC} small", {one.suffix: 1.0 + (one is not first) for one in (first, *others)})
    measurements.save()
    spoil(monkeypatch, kernel_of(MATVEC, first))
    device.prove(PROGRAMS, seconds=600)
    device.tune(PROGRAMS[0])
    assert device._selection.variant(MATVEC, 96) in others


def test_where_no_variant_is_right_a_sentence_says_so(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, runs: list[str]
) -> None:
    device = open_device("lavapipe", LIMITS)
    kernels = [kernel_of(MATVEC, variant) for variant in candidates(MATVEC, device.info.features)]
    spoil(monkeypatch, *kernels)
    with pytest.raises(DeviceError) as caught:
        device.prove(PROGRAMS)
    told = str(caught.value)
    assert f"the kernel {kernels[0]} on {device.name} (driver {device.info.driver})" in told
    assert all(name in told for name in (*kernels, "--devices cpu", "report it", "tplaunch check --json"))
    assert runs == kernels  # no more than it takes
    with pytest.raises(DeviceError, match="computes wrong numbers"):
        open_device("lavapipe", LIMITS).prove(PROGRAMS)
    assert runs == kernels  # and once


def test_a_kernel_without_variants_can_not_be_replaced(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device("lavapipe", LIMITS)
    (op,) = [op.op for key, op in one_of_each(device.info.features).items() if key[0].__name__ == "UnitNorm"]
    spoil(monkeypatch, "unit_norm")
    with pytest.raises(DeviceError, match=r"the kernel unit_norm on .* computes wrong numbers"):
        device.prove([program_of(op)])


def program_of(op: Op) -> Any:
    (segment, _) = PROGRAMS[0].segments
    return dataclasses.replace(PROGRAMS[0], segments=(dataclasses.replace(segment, ops=(op,)),))


def test_what_was_found_is_kept_for_the_driver_and_the_kernels(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, runs: list[str]
) -> None:
    def prove(**changes: Any) -> list[str]:
        runs.clear()
        device = open_device("lavapipe", LIMITS)
        device.info = dataclasses.replace(device.info, **changes)
        device.prove(PROGRAMS, seconds=600)
        return list(runs)

    first = prove()
    assert MATVEC in first and any(name.startswith("attention_f16") for name in first)
    assert prove() == []
    assert prove(driver_version=77) == prove(driver="another") == prove(uuid="00") == first
    monkeypatch.setattr(tuning, "kernels_hash", lambda: "other kernels")
    assert prove() == first


def test_a_start_looks_for_one_right_variant_and_leaves_others_to_the_next(
    open_device: Opener, runs: list[str]
) -> None:
    device = open_device("lavapipe", LIMITS)
    first, others = first_and_others(device)
    kernel, kernels = kernel_of(MATVEC, first), {kernel_of(MATVEC, one) for one in others}
    device.prove(PROGRAMS, seconds=0)
    assert runs.count(kernel) == 1 and not kernels & set(runs)
    device.tune(PROGRAMS[0])
    assert device._selection.variant(MATVEC, 96) is first  # what was not checked is not used
    runs.clear()
    open_device("lavapipe", LIMITS).prove(PROGRAMS, seconds=600)
    assert kernels <= set(runs) and runs.count(kernel) == 1  # the other way to run it


@pytest.fixture
def steps(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that were checked, as `runs` has them, and for each that was compiled its module's length."""
    compile_module = pipelines.Pipelines._compile

    def noted(compiled: pipelines.Pipelines, module: bytes) -> Any:
        runs.append(f"compiled {len(module)}")
        return compile_module(compiled, module)

    monkeypatch.setattr(pipelines.Pipelines, "_compile", noted)
    return runs


def compiled_before(steps: list[str], number: int) -> int:
    """How many kernels were compiled before so many were checked."""
    checked = [place for place, step in enumerate(steps) if not step.startswith("compiled")]
    return checked[number] - number


def test_what_a_start_needs_is_compiled_before_the_first_check(open_device: Opener, steps: list[str]) -> None:
    """By threads. On a CPU's driver nothing else is, and where all is known nothing at all."""
    device = open_device("lavapipe", LIMITS)
    device.prove(PROGRAMS, seconds=0)
    checked = {step for step in steps if not step.startswith("compiled")}
    assert compiled_before(steps, 0) == len(checked) > 1
    assert sum(step.startswith("compiled") for step in steps) == len(checked)
    steps.clear()
    open_device("lavapipe", LIMITS).prove(PROGRAMS, seconds=0)
    assert steps == []


@pytest.mark.parametrize("ahead", [True, False])
def test_the_command_compiles_some_kernels_ahead_of_their_checks(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    """Or none, where blame has to be right."""
    select_driver(monkeypatch, "lavapipe")
    few = [small_op(op, "f32", 1) for op in (UnitNorm(1, 128, 1e-6), Clamp(4, 0.75))]
    monkeypatch.setattr(check, "every_op", lambda *arguments: few)
    said: list[Any] = []
    check.check_kernels(CheckJob(0, ahead), DeviceId(0), said.append)
    assert [type(one) for one in said] == [CheckList, *[CheckBegun, CheckEnded] * 2]
    assert compiled_before(steps, 0) == (2 if ahead else 0) and compiled_before(steps, 1) >= 1


def test_a_card_compiles_all_variants_before_it_checks_them(open_device: Opener, steps: list[str]) -> None:
    device = open_device("lavapipe", LIMITS)
    device._context.info = dataclasses.replace(device._context.info, type="discrete")
    device.prove(PROGRAMS, seconds=600)
    num_kernels = len({step for step in steps if not step.startswith("compiled")})
    assert sum(step.startswith("compiled") for step in steps) == num_kernels
    *_, last = (place for place, step in enumerate(steps) if step.startswith("compiled"))
    others = [kernel_of(MATVEC, one) for one in candidates(MATVEC, device.info.features - {"cpu"})[1:]]
    assert others and all(steps.index(kernel) > last for kernel in others)


def test_a_kernel_that_is_not_compiled_is_not_used(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = open_device("lavapipe", LIMITS)
    first, (second, *_) = first_and_others(device)
    compile_kernel = pipelines.Pipelines.__getitem__

    def refuse(compiled: pipelines.Pipelines, name: str) -> Any:
        if name == kernel_of(MATVEC, first):
            raise DeviceError("vkCreateComputePipelines failed with VK_ERROR_UNKNOWN")
        return compile_kernel(compiled, name)

    monkeypatch.setattr(pipelines.Pipelines, "__getitem__", refuse)
    (note,) = device.prove(PROGRAMS)
    assert f"{kernel_of(MATVEC, second)} is right" in note
    assert "VK_ERROR_UNKNOWN" in caplog.text


def test_a_device_that_fails_in_a_check_names_the_kernel(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*arguments: object) -> None:
        raise DeviceError("vkWaitSemaphores failed with VK_ERROR_DEVICE_LOST")

    monkeypatch.setattr(case_device.CaseDevice, "finish", lose)
    with pytest.raises(DeviceError, match=f"the kernel {MATVEC}_wide on .* fails: vkWait.*DEVICE_LOST"):
        open_device("lavapipe", LIMITS).prove(PROGRAMS)


def test_the_log_says_which_kernel_is_checked(open_device: Opener, caplog: pytest.LogCaptureFixture) -> None:
    """Should the driver crash, this is what is left."""
    caplog.set_level(logging.INFO)
    device = open_device("lavapipe", LIMITS)
    device.prove(PROGRAMS)
    assert f"checking the kernel {MATVEC}_wide on {device.name}" in caplog.text
    assert caplog.messages[-1].endswith("are right")
