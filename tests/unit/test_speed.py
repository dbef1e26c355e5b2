"""How fast a device multiplies, measured on its way of a step and kept; and how a split asks for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tplaunch.worker.jobs.speed
from tests.models import config_of
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.device_job import run_device_job
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.speeds import device_speed, rank_speeds
from tplaunch.worker.cpu import code
from tplaunch.worker.device import DeviceId
from tplaunch.worker.jobs.messages import Speed, SpeedJob
from tplaunch.worker.jobs.speed import LIMITS, measure_speed
from tplaunch.worker.jobs.speed import device_speed as run_speed_job
from tplaunch.worker.numpy.device import NumpyDevice

CONFIG = config_of(Path("m.gguf"))
NUMPY = DeviceChoice(None, "numpy")
NUMPY_ID = DeviceId(index=None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tplaunch"


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that shows so much more at every look."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += seconds
        return now

    return clock


def test_the_products_of_a_run_are_counted() -> None:
    device = NumpyDevice(LIMITS)
    num_weights = 8 * 4096
    assert measure_speed(device, num_weights, ticking(0.5)) == 4 * num_weights / 0.5
    output = device.view("output").view("float32")
    assert output.shape == (8,) and output.std() > 0  # it did multiply


def test_a_speed_is_measured_once_unless_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([3e9, 5e9])
    monkeypatch.setattr(tplaunch.worker.jobs.speed, "measure_speed", lambda *_: next(speeds))
    found = []
    for anew in (False, False, True, False):
        found.append(run_speed_job(SpeedJob(True, anew), NUMPY_ID).weights_per_second)
    assert found == [3e9, 3e9, 5e9, 5e9]
    assert len(list(cache.iterdir())) == 1


def test_a_speed_of_kernels_is_that_of_their_cores(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([3e9, 5e9, 7e9, 9e9])
    monkeypatch.setattr(tplaunch.worker.jobs.speed, "measure_speed", lambda *_: next(speeds))
    cores: set[int] = {0, 1}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: cores)
    job, by_two = SpeedJob(False, False), SpeedJob(False, False, options=RankOptions(cpu_threads=2))

    def found(job: SpeedJob) -> float:
        return run_speed_job(job, DeviceId(None, num_threads=1)).weights_per_second

    assert [found(job), found(by_two), found(job)] == [3e9, 5e9, 3e9]
    cores.add(2)
    assert [found(job), found(job)] == [7e9, 7e9]
    monkeypatch.setattr(code, "_identity", lambda _target: "other kernels")
    assert found(job) == 9e9
    assert len(list(cache.glob("*.json"))) == 1


def test_a_process_measures_numpy(cache: Path) -> None:
    speed = device_speed(CONFIG, NUMPY)
    assert 1e7 < speed < 1e12
    assert device_speed(CONFIG, NUMPY) == speed  # kept
    assert len(list(cache.iterdir())) == 1


def test_a_device_that_is_not_there_is_a_sentence(cache: Path) -> None:
    missing = DeviceChoice(99, "missing", uuid="00")
    fault = "(there is no Vulkan device 99|the Vulkan loader is not installed)"
    with pytest.raises(RunError, match=f"missing can't be measured: {fault}"):
        rank_speeds(CONFIG, [NUMPY, missing])
    assert not list(cache.glob("*missing*"))


def test_a_process_that_takes_too_long_or_ends_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with pytest.raises(RunError, match="measuring numpy was given up after 0 s"):
        run_device_job(CONFIG, NUMPY, SpeedJob(True, True), Speed, 0.01)
    assert time.monotonic() - started < 30
    sentence = (
        "measuring numpy ended with code 1: the job can't be read: a message of the unknown type 'Speed'"
    )
    with pytest.raises(RunError, match=sentence):
        run_device_job(CONFIG, NUMPY, Speed(1.0), Speed, 60)
