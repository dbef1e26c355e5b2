"""Whole models on several Vulkan devices, step by step, against the same ranks in NumPy."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.drivers import FINDERS
from tests.models import LIMITS, LocalEngine, make_spec, write_llama
from tests.several_hosts import engine_on_hosts
from tests.steps import Rows, step_of
from tests.vulkan.conftest import Opener
from tplaunch.coordinator.messages import Step
from tplaunch.coordinator.options import FEATURES
from tplaunch.coordinator.split.limits import Limits
from tplaunch.running_clock import MOST_SECONDS, RunningClock
from tplaunch.worker.device import COPY, IMPORT, Device, DeviceError
from tplaunch.worker.vulkan import timeline
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.listing import PhysicalDevice, describe

Floats = npt.NDArray[np.float32]

SPEC = make_spec(
    embedding_length=96,
    num_heads=6,
    num_kv_heads=3,
    key_length=16,
    value_length=12,
    feed_forward_length=160,
    rope={"dimension": 12, "interleaved": False},
)
TYPES = {
    "attn_q.weight": "Q8_0",
    "ffn_gate.weight": "Q4_0",
    "ffn_down.weight": "Q8_0",
    "attn_k.weight": "F16",
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_llama(path, SPEC, TYPES, biases=True)
    return path


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a model of one weight type: SwiftShader takes its time to compile each type."""
    path = tmp_path_factory.mktemp("plain_model") / "model.gguf"
    write_llama(path, SPEC)
    return path


def step(number: int, positions: Sequence[int], logit_rows: Sequence[int]) -> Step:
    """Rows of one sequence, whose blocks are the first ones, backwards."""
    tokens = ((np.arange(len(positions)) * 7 + number) % SPEC.vocabulary_size).tolist()
    tables = {0: range(LIMITS.num_blocks - 1, LIMITS.num_blocks // 2 - 1, -1)}
    return step_of(number, [Rows(tokens, positions[0])], logit_rows, tables)


STEPS = (
    step(1, range(11), [10]),
    step(2, range(11, 16), []),
    step(3, [16], [0]),
    step(4, [17, 18], [0, 1]),
    step(5, [19], [0]),
)


def run(engine: LocalEngine) -> list[Floats]:
    return [engine.logits(one_step).copy() for one_step in STEPS]


def engine_on(
    model: Path,
    openers: Sequence[Callable[[Limits], Device]],
    weights: Sequence[float] | None = None,
    two_phase: bool = False,
    limits: Limits = LIMITS,
) -> LocalEngine:
    """A rank on each device that an opener opens."""
    remaining = list(openers)

    def open_next(limits: Limits) -> Device:
        return remaining.pop(0)(limits)

    return LocalEngine(model, weights or [1.0] * len(openers), limits, open_next, two_phase)


def assert_alike(actual: list[Floats], expected: list[Floats]) -> None:
    for mine, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=2e-4, atol=2e-4)


def on(open_device: Opener, driver: str, **options: Any) -> Callable[[Limits], Device]:
    return lambda limits: open_device(driver, limits, **options)


@pytest.mark.parametrize(
    ("drivers", "weights"),
    [
        (["lavapipe"], [1]),
        (["swiftshader"], [1]),
        (["mesa"], [1]),
        (["lavapipe", "swiftshader"], [1, 1]),
        (["mesa", "lavapipe", "swiftshader"], [1, 1, 2]),
        (["swiftshader", "lavapipe", "lavapipe"], [3, 1, 2]),
        (["lavapipe"] * 8, [1, 1, 0, 5, 1, 1, 1, 1]),  # more ranks than heads, and one that holds nothing
    ],
)
def test_logits_are_numpys(
    open_device: Opener, model: Path, drivers: list[str], weights: list[float]
) -> None:
    engine = engine_on(model, [on(open_device, driver) for driver in drivers], weights)
    assert_alike(run(engine), run(LocalEngine(model, weights)))


@pytest.mark.parametrize("driver", FINDERS)
@pytest.mark.parametrize(("activations", "tolerance"), [("q8", 0.05), ("f16", 0.01)])
def test_rounded_activations_are_numpys(
    open_device: Opener, model: Path, driver: str, activations: str, tolerance: float
) -> None:
    """Less alike than with floats: where one rounds up and another down, all that follows differs."""
    limits = dataclasses.replace(LIMITS, activations=activations)
    try:
        engine = engine_on(model, [on(open_device, driver)] * 2, limits=limits)
    except DeviceError as error:
        if "no cooperative matrices" not in str(error):
            raise
        pytest.skip(str(error))
    for mine, reference in zip(run(engine), run(LocalEngine(model, [1, 1], limits)), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("activations", "missing"),
    [("q8", "integer dot product"), ("f16", "cooperative matrices of float16 that kernels multiply")],
)
def test_a_device_that_lacks_what_activations_need_says_so(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, activations: str, missing: str
) -> None:
    def without(index: int, handle: Any) -> PhysicalDevice:
        described = describe(index, handle)
        return dataclasses.replace(described, integer_dot_product=False, cooperative_matrix=False)

    monkeypatch.setattr("tplaunch.worker.vulkan.context.describe", without)
    with pytest.raises(DeviceError, match=rf"llvmpipe.* has no {missing}; use --activations f32"):
        open_device("lavapipe", dataclasses.replace(LIMITS, activations=activations))


@pytest.mark.parametrize("driver", FINDERS)
def test_ways_to_submit_and_to_share_give_the_same_bytes(
    open_device: Opener, plain_model: Path, driver: str
) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"staging": True},
        {"submit_ahead": False},
        {"staging": True, "submit_ahead": False},
    ]
    if driver != "swiftshader":  # which has nothing to do without
        ways += [{"without": FEATURES}]
    results = []
    for way in ways:
        engine = engine_on(plain_model, [on(open_device, driver, **way)] * 2)
        results.append(run(engine))
        imports = "staging" not in way and driver != "swiftshader"
        assert [rank.device.sharing for rank in engine.ranks] == [IMPORT if imports else COPY] * 2
    for other in results[1:]:
        for mine, first in zip(other, results[0], strict=True):
            assert np.array_equal(mine, first)


@pytest.mark.parametrize("drivers", [["lavapipe"] * 3, ["swiftshader", "lavapipe"]])
@pytest.mark.parametrize("staging", [False, True])
def test_two_phases_give_the_same_bytes(
    open_device: Opener, plain_model: Path, drivers: list[str], staging: bool
) -> None:
    results = [
        run(
            engine_on(
                plain_model, [on(open_device, driver, staging=staging) for driver in drivers], None, way
            )
        )
        for way in (False, True)
    ]
    for one_shot, two_phase in zip(*results, strict=True):
        assert np.array_equal(one_shot, two_phase)


@pytest.mark.parametrize("hosts", [(0, 1), (0, 0, 1), (0, 1, 1, 2)], ids=str)
@pytest.mark.parametrize("host_sums", [False, True])
@pytest.mark.parametrize("staging", [False, True])
def test_ranks_on_several_hosts_give_numpys_logits(
    open_device: Opener, model: Path, hosts: tuple[int, ...], host_sums: bool, staging: bool
) -> None:
    opener = on(open_device, "lavapipe", staging=staging)
    with engine_on_hosts(model, hosts, host_sums=host_sums, open_device=opener) as engine:
        assert all((rank.device.sharing == IMPORT) != staging for rank in engine.ranks)
        assert_alike(run(engine), run(LocalEngine(model, [1.0] * len(hosts))))


def started(open_device: Opener, plain_model: Path, **options: Any) -> VulkanDevice:
    """A device in the middle of a step: the second of several segments waits for its release."""
    engine = engine_on(plain_model, [on(open_device, "lavapipe", **options)] * 2)
    engine.ranks[0].submit(STEPS[0])
    device = engine.ranks[0].device
    assert isinstance(device, VulkanDevice)
    device.finish(0)
    return device


@pytest.mark.parametrize("submit_ahead", [True, False])
def test_an_aborted_step_does_not_hold_up_closing(
    open_device: Opener, plain_model: Path, submit_ahead: bool
) -> None:
    device = started(open_device, plain_model, submit_ahead=submit_ahead)
    start = time.monotonic()
    device.close()
    device.close()
    assert time.monotonic() - start < 30  # half of the device's timeout


def test_a_segment_that_is_not_released_times_out(open_device: Opener, plain_model: Path) -> None:
    device = started(open_device, plain_model, timeout_seconds=0.1)
    with pytest.raises(DeviceError, match=r"segment 1 of the step has not ended after 0\.1 s"):
        device.finish(1)


def test_a_stop_takes_no_time_from_a_segment(
    open_device: Opener, plain_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps by hours; the segment may begin after that only, and later than its time was."""
    jumps = iter([0.0, 5000.0])
    monkeypatch.setattr(timeline, "RunningClock", lambda: RunningClock(lambda: next(jumps, 5000.0)))
    device = started(open_device, plain_model, timeout_seconds=2 * MOST_SECONDS)
    release = threading.Timer(4 * MOST_SECONDS, device.release, [1])
    release.start()
    device.finish(1)
    release.join()


@pytest.mark.parametrize("driver", FINDERS)
@pytest.mark.parametrize("staging", [False, True])
def test_the_validation_layer_has_no_objection(
    open_device: Opener, plain_model: Path, driver: str, staging: bool
) -> None:
    validated = on(open_device, driver, staging=staging, validate=True)
    run(engine_on(plain_model, [validated, validated]))
    for device in open_device.opened:
        device.close()  # raises if anything was objected to, leaks among that


@pytest.mark.parametrize("driver", FINDERS)
def test_equal_devices_agree_bit_for_bit(open_device: Opener, plain_model: Path, driver: str) -> None:
    """Every rank adds the partial sums in rank order, so what all of them hold must not drift apart."""
    engine = engine_on(plain_model, [on(open_device, driver)] * 3, [1, 1, 2])
    for one_step in STEPS:
        engine.logits(one_step)
        held = [rank.device.view("final").tobytes() for rank in engine.ranks]
        assert held[0] == held[1] == held[2]
        assert any(held[0])


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
@pytest.mark.parametrize(("driver", "staging"), [("lavapipe", False), ("lavapipe", True), ("mesa", False)])
def test_a_copied_block_is_a_block_of_its_own(
    open_device: Opener, model: Path, driver: str, staging: bool, kv_type: str
) -> None:
    """Two sequences share their first block, and the second one's last keys are a copy."""
    limits = dataclasses.replace(LIMITS, kv_type=kv_type)
    begun = step_of(1, [Rows([1, 2, 3, 4, 5, 6])], [5], {0: [7, 3]})
    rows = [Rows([5], 6), Rows([9, 9], 6, seat=1)]
    parted = step_of(2, rows, range(3), [1, 0, 7, 1, 1, 30], copies=[3, 30])
    copying = engine_on(model, [on(open_device, driver, staging=staging)] * 2, limits=limits)
    whole = engine_on(model, [on(open_device, driver, staging=staging)] * 2, limits=limits)
    copying.run(begun)
    tokens = [1, 2, 3, 4, 5, 6]
    whole.run(step_of(1, [Rows(tokens), Rows(tokens, seat=1)], [5], {0: [7, 3], 1: [8, 9]}))
    assert np.array_equal(copying.logits(parted), whole.logits(step_of(2, rows, range(3))))
