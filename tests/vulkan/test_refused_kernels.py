"""Kernels that a driver does not compile are told apart from those that compute wrong numbers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.vulkan.conftest import Opener, select_driver
from tests.vulkan.test_checking import LIMITS, MATVEC, PROGRAMS, first_and_others, spoil
from tplaunch.launcher.check_job import DeviceReport, Outcome, _heard
from tplaunch.launcher.checking.kernel_report import described, kernels_json
from tplaunch.shaders.load import load_kernel
from tplaunch.worker.checking.table import small_op
from tplaunch.worker.device import DeviceError, DeviceId
from tplaunch.worker.jobs import check
from tplaunch.worker.jobs.messages import CheckJob
from tplaunch.worker.ops.attention import Clamp
from tplaunch.worker.ops.recurrent import UnitNorm
from tplaunch.worker.vulkan import api, pipelines
from tplaunch.worker.vulkan.measuring import tuning
from tplaunch.worker.vulkan.variants import candidates, kernel_of

SAID = "vkCreateComputePipelines failed with VK_ERROR_OUT_OF_DEVICE_MEMORY"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty at first."""
    monkeypatch.setattr(tuning, "cache_folder", lambda: tmp_path / "tplaunch")


def refuse(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """From now on the driver refuses these kernels."""
    refused, compiled = {load_kernel(name) for name in names}, pipelines.Pipelines._compile

    def compile_module(made: pipelines.Pipelines, module: bytes) -> Any:
        if module in refused:
            api.check(api.vk.VK_ERROR_OUT_OF_DEVICE_MEMORY, "vkCreateComputePipelines")
        return compiled(made, module)

    monkeypatch.setattr(pipelines.Pipelines, "_compile", compile_module)


def test_a_start_does_without_a_refused_variant_and_says_why(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So does the next one, which asks the driver no more."""
    device = open_device("lavapipe", LIMITS)
    first, others = first_and_others(device)
    kernel = kernel_of(MATVEC, first)
    refuse(monkeypatch, kernel)
    with caplog.at_level(logging.WARNING, "worker"):
        notes = device.prove(PROGRAMS, seconds=0)
    assert f"{kernel} is refused by the driver: {SAID}" in caplog.text
    blame = f"the kernel {kernel} on {device.name} (driver {device.info.driver}) is refused by the driver"
    (note,) = notes
    assert note == f"{blame} ({SAID}) and is not used; {kernel_of(MATVEC, others[0])} is right"
    caplog.clear()
    assert list(open_device("lavapipe", LIMITS).prove(PROGRAMS, seconds=0)) == [note]
    assert kernel not in caplog.text


def test_where_no_variant_is_left_each_has_its_own_reason(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device("lavapipe", LIMITS)
    first, *rest = dict.fromkeys(kernel_of(MATVEC, one) for one in candidates(MATVEC, device.info.features))
    spoil(monkeypatch, *rest)
    refuse(monkeypatch, first)
    with pytest.raises(DeviceError) as caught:
        device.prove(PROGRAMS)
    told = str(caught.value)
    assert f"the kernel {first} on {device.name}" in told and f"is refused by the driver ({SAID})" in told
    assert all(f"; {kernel} computes wrong numbers" in told for kernel in rest)


def test_the_command_tells_of_a_refused_kernel_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    select_driver(monkeypatch, "lavapipe")
    few = [small_op(op, "f32", 1) for op in (UnitNorm(1, 128, 1e-6), Clamp(4, 0.75))]
    monkeypatch.setattr(check, "every_op", lambda *arguments: few)
    refuse(monkeypatch, "unit_norm")
    report, begun = DeviceReport(0, "0", "a device"), list[Outcome | None]([None])
    check.check_kernels(
        CheckJob(0, True), DeviceId(0), lambda said: begun.append(_heard(report, begun[-1], said))
    )
    norm, clamp = report.outcomes
    assert norm.problem == f"the driver refuses to compile it: {SAID}" and clamp.is_right
    shown = " ".join(described(report).split())
    assert f"unit_norm fails: the driver refuses to compile it: {SAID}" in shown
    assert "1 of 2 kernels are right" in shown and "no number" not in shown
    assert kernels_json(report)["kernels"][0]["wrong"][0]["problem"] == norm.problem
