"""Steps that are cut into several submissions, and devices that are lost."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.models import LIMITS
from tests.vulkan.conftest import Opener
from tests.vulkan.test_steps import engine_on, on, plain_model, run, started, step
from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan import budget, context
from tplaunch.worker.vulkan.api import ffi, lib, vk
from tplaunch.worker.vulkan.device import VulkanDevice

__all__ = ["plain_model"]  # a fixture


@pytest.mark.parametrize("submit_ahead", [True, False])
def test_a_step_in_many_submissions_gives_the_same_bits(
    open_device: Opener, plain_model: Path, monkeypatch: pytest.MonkeyPatch, submit_ahead: bool
) -> None:
    """As a slow device gets them, which none here is: a submission for every op that computes much."""
    whole = run(engine_on(plain_model, [on(open_device, "lavapipe")] * 2))
    monkeypatch.setitem(budget.FIRST_OPERATIONS, "cpu", 1.0)
    engine = engine_on(plain_model, [on(open_device, "lavapipe", submit_ahead=submit_ahead)] * 2)
    for mine, expected in zip(run(engine), whole, strict=True):
        assert np.array_equal(mine, expected)
    device = engine.ranks[0].device
    assert isinstance(device, VulkanDevice) and device._current is not None
    submission = device._current.submission
    assert submission.starts[-1] > 2 * submission.num_segments


def test_a_device_that_turns_out_slow_gets_shorter_submissions(
    open_device: Opener, plain_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step seems to take ten seconds, by a clock of the test's own; the bits stay the same."""
    monkeypatch.setitem(budget.FIRST_OPERATIONS, "cpu", 1e9)
    monkeypatch.setattr(budget, "ENOUGH_OPERATIONS", 0.0)
    clock = SimpleNamespace(perf_counter=itertools.count(step=10).__next__)
    monkeypatch.setattr("tplaunch.worker.vulkan.device.time", clock)
    (rank,) = engine_on(plain_model, [on(open_device, "lavapipe", timestamps=True)]).ranks
    prompt, device = step(1, range(8), [7]), rank.device
    assert isinstance(device, VulkanDevice)
    program, counts, results = rank.prepared(prompt), [], []
    for _ in range(3):
        device.submit(program, 8)
        for segment in range(len(program.segments)):
            device.finish(segment)
        counts.append(device._prepared[id(program)].submission.starts[-1])
        results.append(rank.logits(prompt))
        assert device.step_times() is not None
    assert len(program.segments) == counts[0] < counts[1] == counts[2]
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_lost_device_is_told_of_in_a_sentence(open_device: Opener, plain_model: Path) -> None:
    device = started(open_device, plain_model)
    told = r"llvmpipe.* was lost \(vkWaitSemaphores for segment 1\): its driver gave up on it"
    with pytest.MonkeyPatch.context() as patch:  # closing it must wait for the device, which is well
        patch.setattr(device._timeline, "_wait", lambda *arguments: vk.VK_ERROR_DEVICE_LOST)
        with pytest.raises(DeviceError, match=told):
            device.finish(1)


class LosingDevices:
    """The driver's functions, one of which loses the device once it has done what it is for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        function = getattr(lib, name)
        if name != self._name:
            return function

        def lose(*arguments: Any) -> int:
            assert function(*arguments) == vk.VK_SUCCESS
            if name == "vkQueueSubmit":  # nothing waits for it any more
                assert lib.vkQueueWaitIdle(arguments[0]) == vk.VK_SUCCESS
            return int(vk.VK_ERROR_DEVICE_LOST)

        return lose


@pytest.mark.parametrize("name", ["vkQueueSubmit", "vkWaitForFences"])
def test_a_device_that_is_lost_between_steps_is_told_of_in_a_sentence(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """While it copies, as for staging and between blocks of the cache."""
    device = open_device("lavapipe", LIMITS)
    device.create_buffers({"cache": Buffer(4096)})

    def report(_device: object, _counts: object, info: Any) -> int:
        if info != ffi.NULL:
            info.description = b"page fault"
        return int(vk.VK_SUCCESS)

    monkeypatch.setattr(context, "lib", LosingDevices(name))
    monkeypatch.setattr(device._context, "_tells_faults", True)
    monkeypatch.setattr(device._context, "function", lambda name: report)
    told = rf"llvmpipe.* was lost \({name}\): its driver gave up on it.*; the driver reports: page fault"
    with pytest.raises(DeviceError, match=told):
        device.copy([("cache", 0, 1024, 256)])
