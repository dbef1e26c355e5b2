"""Steps that are cut into several submissions, and devices that are lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.vulkan.conftest import Opener
from tests.vulkan.test_steps import engine_on, on, plain_model, run, started
from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan import budget
from tplaunch.worker.vulkan.api import vk
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


def test_a_lost_device_is_told_of_in_a_sentence(open_device: Opener, plain_model: Path) -> None:
    device = started(open_device, plain_model)
    told = r"llvmpipe.* was lost \(vkWaitSemaphores for segment 1\): its driver gave up on it"
    with pytest.MonkeyPatch.context() as patch:  # closing it must wait for the device, which is well
        patch.setattr(device._timeline, "_wait", lambda *arguments: vk.VK_ERROR_DEVICE_LOST)
        with pytest.raises(DeviceError, match=told):
            device.finish(1)
