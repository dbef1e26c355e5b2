"""Timestamps around every segment, and the bandwidth of copies."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.drivers import FINDERS
from tests.models import LIMITS, LocalEngine, write_llama
from tests.vulkan.conftest import Opener
from tests.vulkan.test_steps import step
from tplaunch.worker.buffers.step import INDIRECT_WORD
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.jobs import speed
from tplaunch.worker.jobs.speed import measure_speed
from tplaunch.worker.measuring.bandwidth import copy_bandwidth
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.measuring import bandwidth, peak
from tplaunch.worker.vulkan.measuring.bench import Bench
from tplaunch.worker.vulkan.measuring.rates import Product, Rates
from tplaunch.worker.vulkan.measuring.trials import Size, Trial
from tplaunch.worker.vulkan.measuring.tuning import Tuner
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
            found = rank.device.step_times()
            assert found is not None and found[1].shape == (0, 2)
            times = found[0]
            assert times.shape == (5, 2)  # two layers, two all-reduces each
            assert times[0, 0] == 0 and (np.diff(times.reshape(-1)) >= 0).all()
            assert 0 < times[-1, 1] < 60


def test_a_device_opened_without_them_has_none(open_device: Opener, tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf")
    engine = LocalEngine(tmp_path / "m.gguf", open_device=lambda limits: open_device("lavapipe", limits))
    engine.logits(step(1, [0], [0]))
    (device,) = (rank.device for rank in engine.ranks)
    assert isinstance(device, VulkanDevice) and device.step_times() is None


def test_a_counter_that_wraps_around() -> None:
    ticks = np.array([[2**36 - 10, 2**36 - 1], [5, 30]], np.uint64)
    seconds = DeviceClock(valid_bits=36, seconds_per_tick=0.5).seconds(ticks)
    np.testing.assert_array_equal(seconds, [[0, 4.5], [7.5, 20]])


@pytest.mark.parametrize("staging", [False, True])
@pytest.mark.parametrize("driver", FINDERS)
def test_copies_are_timed(open_device: Opener, driver: str, staging: bool) -> None:
    device = open_device(driver, LIMITS, staging=staging)
    assert 1e6 < copy_bandwidth(device) < 1e13


@pytest.mark.parametrize("staging", [False, True])
@pytest.mark.parametrize("driver", FINDERS)
def test_copies_to_and_from_the_host_are_timed(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, driver: str, staging: bool
) -> None:
    """And what the host can't see it does not write to."""
    monkeypatch.setattr(bandwidth, "NUM_BYTES_ON_CPU", 1 << 20)
    device = open_device(driver, LIMITS)
    with bandwidth.open_copies(device._context, unmapped=staging, with_host=True) as copies:
        assert copies.nbytes == 1 << 20
        rates = copies.on_device(), copies.from_host(), copies.to_host(), copies.read_by_host()
        assert all(1e6 < rate < 1e13 for rate in rates)
        assert (copies.written_by_host() == 0) == staging


@pytest.mark.parametrize("driver", FINDERS)
def test_multiply_adds_are_computed_and_counted(open_device: Opener, driver: str) -> None:
    device, num_groups, rounds = open_device(driver, LIMITS), 2, 5
    device.create_buffers({"output": Buffer(num_groups * 64 * 16, Placement.READBACK)})
    run = device._context, device._pipelines, device._memory["output"].address, num_groups, rounds
    assert peak.seconds_of(*run) > 0
    chains = np.arange(num_groups * 64, dtype=np.float64)[:, None] + np.arange(4)
    for _ in range(4 * rounds):
        chains = chains * np.float32(peak.FACTOR) + np.float32(peak.ADDEND)
    found = device.view("output").view(np.float32).reshape(-1, 4)
    np.testing.assert_allclose(found, np.repeat(chains.sum(1)[:, None], 4, 1), rtol=1e-5)
    assert 1e8 < peak.multiply_add_rate(device._context, device._pipelines) < 1e15


@pytest.mark.parametrize("driver", FINDERS)
def test_multiply_adds_of_integers_and_of_matrices_are_computed_and_counted(
    open_device: Opener, driver: str
) -> None:
    device, num_groups, rounds = open_device(driver, LIMITS), 2, 5
    found = {each.activations: each for each in peak.peaks(device._context)}
    assert found.keys() == {"f32", "q8"} | ({"f16"} if device._context.matrices else set())
    device.create_buffers({"output": Buffer(num_groups * 256 * 32, Placement.READBACK)})
    run = device._context, device._pipelines, device._memory["output"].address, num_groups, rounds
    assert peak.seconds_of(*run, found["q8"]) > 0
    chains = np.arange(num_groups * 64, dtype=np.int32)[:, None] + np.arange(16, dtype=np.int32)
    factors = np.array([peak.BYTES], np.uint32).view(np.int8).astype(np.int32)
    for _ in range(4 * rounds):
        chains = chains + (chains[..., None].view(np.int8).astype(np.int32) * factors).sum(-1, dtype=np.int32)
    sums = chains.reshape(-1, 4, 4).sum(1, dtype=np.int32)
    np.testing.assert_array_equal(device.view("output").view(np.int32)[: sums.size].reshape(-1, 4), sums)
    for each in found.values():
        assert 1e8 < peak.multiply_add_rate(device._context, device._pipelines, each) < 1e16
    if device._context.matrices is not None:
        peak.seconds_of(*run, found["f16"])
        grown = rounds * device._context.matrices.k * peak.MATRIX_FACTOR**2
        expected = sum(range(peak.MATRIX_SUMS)) + peak.MATRIX_SUMS * grown
        assert (device.view("output").view(np.float32) == expected).all()


@pytest.mark.parametrize("driver", FINDERS)
def test_products_are_timed_by_their_fastest_variant(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    device = open_device(driver, LIMITS)
    size = Size(1 << 14, prompt_rows=3)
    monkeypatch.setattr(Tuner, "size", lambda tuner: size)
    monkeypatch.setattr(Tuner, "_time_variants", lambda tuner, bench, trial, variants, deadline: {
        variant.suffix: 2.0 - (variant is variants[-1]) for variant in variants
    })  # fmt: skip
    found = Rates(device._context, device._pipelines)
    wanted = list(found.products())
    assert list(dict.fromkeys(product.type for product in wanted))[:2] == ["Q8_0", "Q4_K"]
    assert Product("Q8_0", True, "q8") in wanted and Product("Q8_0", False, "f16") not in wanted
    one, several = found.rate(Product("Q8_0", True), math.inf), found.rate(Product("Q8_0", False), math.inf)
    assert one is not None and several is not None
    assert (one.seconds, one.num_rows, one.matrix_rows, one.columns) == (1.0, 1, 4, 4096)
    assert one.bytes_per_second == one.matrix_bytes == 4 * 4096 * 34 / 32
    assert several.operations_per_second == 2 * 3 * 4 * 4096
    monkeypatch.setattr(Tuner, "_time_variants", lambda *arguments: {})
    assert found.rate(Product("Q8_0", True), 0.0) is None


@pytest.mark.parametrize("driver", FINDERS)
def test_the_speed_of_a_device_is_that_of_its_products(open_device: Opener, driver: str) -> None:
    """Weights per second, through the device's own kernels: it computes what NumPy does."""
    outputs = []
    for device in (open_device(driver, speed.LIMITS), NumpyDevice(speed.LIMITS)):
        assert 1e5 < measure_speed(device, 1 << 18, time.perf_counter) < 1e12
        outputs.append(device.view("output").view(np.float32).copy())
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)


def test_attention_over_many_keys_is_timed_in_as_many_parts_as_a_step_has(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_variants, groups = Tuner._time_variants, []

    def noted(tuner: Tuner, bench: Bench, trial: Trial, *others: Any) -> Any:
        step = bench.memory["step"].mapped
        assert step is not None
        groups.append(step.view(np.uint32)[INDIRECT_WORD : INDIRECT_WORD + 3].tolist())
        found = time_variants(tuner, bench, trial, *others)
        scales = bench.memory["attention_scales"].mapped
        assert scales is not None and scales.any()  # of the last run
        return found

    monkeypatch.setattr(Tuner, "_time_variants", noted)
    monkeypatch.setattr("tplaunch.worker.vulkan.measuring.tuning.NUM_ROUNDS_ON_CPU", 1)
    device = open_device("lavapipe", LIMITS)
    rates = Rates(device._context, device._pipelines)
    found = rates.attention_seconds(math.inf)
    assert found is not None and 0 < found[0] < 60
    ((_, kv_heads, num_parts),) = groups
    assert (kv_heads, num_parts) == (8, 4096 // 256)
    assert rates.attention_seconds(-math.inf) is None
