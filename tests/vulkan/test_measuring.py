"""Timestamps around every segment, and the bandwidth of copies."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.drivers import FINDERS
from tests.models import LIMITS, LocalEngine, write_llama
from tests.vulkan.conftest import Opener
from tests.vulkan.test_steps import step
from tplaunch.worker.jobs import speed
from tplaunch.worker.jobs.speed import measure_speed
from tplaunch.worker.measuring.bandwidth import copy_bandwidth
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.timestamps import DeviceClock


@pytest.mark.parametrize("submit_ahead", [True, False])
@pytest.mark.parametrize("driver", FINDERS)
def test_every_segment_is_timed(open_device: Opener, tmp_path: Path, driver: str, submit_ahead: bool) -> None:
    write_llama(tmp_path / "m.gguf")
    engine = LocalEngine(
        tmp_path / "m.gguf",
        (1.0, 1.0),
        LIMITS,
        lambda limits: open_device(driver, limits, timestamps=True, submit_ahead=submit_ahead),
    )
    for number in (1, 2, 3):
        engine.logits(step(number, [number - 1], [0]))
        for rank in engine.ranks:
            assert isinstance(rank.device, VulkanDevice)
            times = rank.device.segment_times()
            assert times is not None and times.shape == (5, 2)  # two layers, two all-reduces each
            assert times[0, 0] == 0 and (np.diff(times.reshape(-1)) >= 0).all()
            assert 0 < times[-1, 1] < 60


def test_a_device_opened_without_them_has_none(open_device: Opener, tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf")
    engine = LocalEngine(tmp_path / "m.gguf", open_device=lambda limits: open_device("lavapipe", limits))
    engine.logits(step(1, [0], [0]))
    (device,) = (rank.device for rank in engine.ranks)
    assert isinstance(device, VulkanDevice) and device.segment_times() is None


def test_a_counter_that_wraps_around() -> None:
    ticks = np.array([[2**36 - 10, 2**36 - 1], [5, 30]], np.uint64)
    seconds = DeviceClock(valid_bits=36, seconds_per_tick=0.5).seconds(ticks)
    np.testing.assert_array_equal(seconds, [[0, 4.5], [7.5, 20]])


@pytest.mark.parametrize("staging", [False, True])
@pytest.mark.parametrize("driver", FINDERS)
def test_copies_are_timed(open_device: Opener, driver: str, staging: bool) -> None:
    device = open_device(driver, LIMITS, staging=staging)
    assert 1e6 < copy_bandwidth(device) < 1e13


@pytest.mark.parametrize("driver", FINDERS)
def test_the_speed_of_a_device_is_that_of_its_products(open_device: Opener, driver: str) -> None:
    """Weights per second, through the device's own kernels: it computes what NumPy does."""
    outputs = []
    for device in (open_device(driver, speed.LIMITS), NumpyDevice(speed.LIMITS)):
        assert 1e5 < measure_speed(device, 1 << 18, time.perf_counter) < 1e12
        outputs.append(device.view("output").view(np.float32).copy())
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)
