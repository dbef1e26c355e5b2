"""--tensor-split auto: by speed where that fits, by memory just as far as it must."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import config_of, examples
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting import speeds as measured
from tplaunch.launcher.fitting.arrange import Arrangement, arrange
from tplaunch.launcher.fitting.auto_split import ROOM
from tplaunch.launcher.fitting.speeds import rank_speeds
from tplaunch.launcher.model import open_model
from tplaunch.launcher.number_lists import parse_split

SHAPE = RandomModel("llama-3.1-8b", "Q4_0")  # 4.5 GB
AUTO = config_of(SHAPE, tensor_split="auto")
MODEL = open_model(AUTO)


def gpu(index: int, gigabytes: float, name: str | None = None, **changes: Any) -> DeviceChoice:
    return DeviceChoice(
        index, name or f"gpu {index}", on_cpu=False, memory_bytes=int(gigabytes * 1e9), **changes
    )


@pytest.fixture(autouse=True)
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Sets the speeds of devices, by name; 100 for others."""
    found: dict[str, float] = {}

    def device_speed(_config: RunConfig, choice: DeviceChoice, anew: bool = False) -> float:
        return found.get(choice.name, 100.0)

    monkeypatch.setattr(measured, "device_speed", device_speed)
    return found


def arranged(*choices: DeviceChoice, **changes: Any) -> Arrangement:
    config = config_of(SHAPE, tensor_split="auto", **changes)
    return arrange(config, MODEL, choices)


def columns(found: Arrangement) -> list[float]:
    """Each rank's part of the FFN columns."""
    total = MODEL.spec.feed_forwards[0].length
    return [len(share.layers[0].feed_forward) / total for share in found.plan]


def test_equal_devices_share_equally(speeds: dict[str, float]) -> None:
    for number in range(1, 9):
        found = arranged(*(gpu(index, 24, "same") for index in range(number)))
        assert max(columns(found)) - min(columns(found)) < 0.03
        assert found.split is not None and found.split.endswith("by speed")
    assert speeds == {}


def test_kernels_for_processors_are_measured_on_the_cores_that_the_others_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[DeviceChoice] = []

    def device_speed(_config: RunConfig, choice: DeviceChoice, anew: bool = False) -> float:
        asked.append(choice)
        return 10.0 * len(choice.own_cores or "1")

    monkeypatch.setattr(measured, "device_speed", device_speed)
    monkeypatch.setattr(measured, "usable_cores", lambda: list(range(7)))
    cpu = DeviceChoice(None, "cpu")
    assert rank_speeds(AUTO, [DeviceChoice(0, "llvmpipe"), cpu, cpu]) == [10.0, 30.0, 30.0]
    assert [sorted(choice.own_cores) for choice in asked] == [[], [1, 2, 3]]
    assert rank_speeds(AUTO, [gpu(0, 24), cpu]) == [10.0, 60.0]
    monkeypatch.setattr(measured, "usable_cores", lambda: [5])
    assert rank_speeds(AUTO, [gpu(0, 24), cpu, cpu]) == [10.0, 5.0, 5.0]


def test_a_fast_and_a_slow_card_with_room_share_by_speed(speeds: dict[str, float]) -> None:
    speeds["gpu 0"], speeds["gpu 1"] = 300, 100
    found = arranged(gpu(0, 24), gpu(1, 24))
    assert columns(found) == pytest.approx([0.75, 0.25], abs=0.02)
    assert found.split == "shares 0.75, 0.25: by speed"


def test_a_small_and_a_large_card_share_by_speed_while_that_fits() -> None:
    """8 and 24 GB, equally fast: half of 4.5 GB each, although one could hold it all."""
    found = arranged(gpu(0, 8), gpu(1, 24))
    assert columns(found) == pytest.approx([0.5, 0.5], abs=0.01)
    assert found.limits.context_length >= ROOM


def test_a_small_fast_card_gets_what_it_can_hold(speeds: dict[str, float]) -> None:
    speeds["gpu 0"], speeds["gpu 1"] = 300, 100
    found = arranged(gpu(0, 3), gpu(1, 24))
    small, _ = columns(found)
    assert 0.3 < small < 0.6
    assert found.limits.context_length >= ROOM
    assert "% by speed, the rest by memory" in str(found.split)
    # A larger part by speed would not leave the room.
    speeds["gpu 0"] = 400
    assert columns(arranged(gpu(0, 3), gpu(1, 24)))[0] == pytest.approx(small, abs=0.04)


def test_a_context_that_the_user_names_needs_its_room() -> None:
    short = columns(arranged(gpu(0, 6), gpu(1, 24), context_length=4096))[0]
    long = columns(arranged(gpu(0, 6), gpu(1, 24), context_length=100_000))[0]
    assert long < short == pytest.approx(0.5, abs=0.01)
    with pytest.raises(UsageError, match="the plan does not fit"):
        arranged(gpu(0, 3), gpu(1, 6), context_length=100_000)


def test_where_nothing_leaves_room_memory_decides() -> None:
    found = arranged(gpu(0, 2.0), gpu(1, 4.5))
    assert found.split is not None and found.split.endswith(": by memory")
    assert columns(found)[0] == pytest.approx(0.3, abs=0.05)
    assert 32 <= found.limits.context_length < ROOM


def test_caps_count_as_the_devices_memory() -> None:
    found = arranged(gpu(0, 24), gpu(1, 24), max_memory={0: int(2.5e9)})
    assert columns(found)[0] < 0.45
    assert found.bytes[0].own <= 2.5e9


def test_ranks_on_one_gpu_share_its_speed_and_memory(speeds: dict[str, float]) -> None:
    speeds["gpu 0"], speeds["gpu 1"] = 200, 100
    assert rank_speeds(AUTO, [gpu(0, 24), gpu(0, 24), gpu(1, 24)]) == [100, 100, 100]
    found = arranged(gpu(0, 4), gpu(0, 4), gpu(1, 24))
    assert columns(found)[0] == pytest.approx(columns(found)[1], abs=0.02)
    assert columns(found)[0] < 0.3


def test_ranks_on_a_cpu_driver_have_cores_of_their_own(speeds: dict[str, float]) -> None:
    speeds["llvmpipe"], speeds["numpy"] = 2, 5
    lavapipe, numpy = DeviceChoice(0, "llvmpipe"), DeviceChoice(None, "numpy")
    assert rank_speeds(AUTO, [lavapipe, lavapipe, numpy]) == [2, 2, 5]


def test_devices_of_one_name_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to compare with, and measuring twice never gives the same."""
    monkeypatch.setattr(measured, "device_speed", None)
    assert rank_speeds(AUTO, [gpu(0, 24, "same"), gpu(1, 8, "same")]) == [1, 1]


def lavapipe_on(host: int, name: str = "llvmpipe") -> DeviceChoice:
    return DeviceChoice(
        0, name, memory_bytes=64 << 30, host=host, host_memory=(64 << 30, 60 << 30, str(host))
    )


def test_a_cpus_driver_is_as_fast_as_its_host() -> None:
    """Though it has the same name on all of them. What measuring again would change makes no difference."""
    by_host = {0: 100.0, 1: 50.0, 2: 52.0, 3: 104.0}
    choices = [lavapipe_on(host) for host in (0, 0, 1, 2, 3)]
    assert rank_speeds(AUTO, choices, lambda _, choice: by_host[choice.host]) == [100, 100, 50, 50, 100]
    cards = [gpu(0, 24, "same"), gpu(0, 24, "same", host=1)]
    assert rank_speeds(AUTO, cards, lambda _, choice: by_host[choice.host]) == [1, 1]


@pytest.mark.parametrize(
    ("stages", "hosts", "layers"),
    [
        # The second host is half as fast: a third of the layers, or of each of its stage's.
        (2, (0, 1), (22, 10)),
        (2, (0, 0, 1), (27, 5)),
        (4, (0, 0, 1, 1), (11, 11, 6, 4)),
    ],
)
def test_measured_speeds_cut_stages_of_hosts(
    stages: int, hosts: tuple[int, ...], layers: tuple[int, ...]
) -> None:
    config = config_of(SHAPE, tensor_split="auto", pipeline=stages, context_length=512)
    choices = [lavapipe_on(host) for host in hosts]
    found = arrange(config, MODEL, choices, lambda _, choice: (100.0, 50.0)[choice.host])
    cuts = sorted({(share.stage_layers.start, share.stage_layers.stop) for share in found.plan})
    assert tuple(stop - start for start, stop in cuts) == layers


def test_measured_speeds_share_a_layer_over_hosts() -> None:
    choices = [lavapipe_on(0), lavapipe_on(1)]
    config = config_of(SHAPE, tensor_split="auto", context_length=512)
    found = arrange(config, MODEL, choices, lambda _, choice: (100.0, 50.0)[choice.host])
    assert columns(found) == pytest.approx([2 / 3, 1 / 3], abs=0.02)


def test_stages_of_uneven_devices_are_cut_by_speed_unless_the_user_says_otherwise(
    speeds: dict[str, float],
) -> None:
    speeds["gpu 0"], speeds["gpu 1"] = 300, 100

    def stage_layers(*choices: DeviceChoice, **changes: Any) -> list[int]:
        config = config_of(SHAPE, pipeline=2, **changes)
        return [len(share.stage_layers) for share in arrange(config, MODEL, choices).plan]

    uneven, even = (gpu(0, 24), gpu(1, 24)), (gpu(0, 24, "same"), gpu(1, 24, "same"))
    assert stage_layers(*uneven)[0] > 22
    assert stage_layers(*even) == stage_layers(*uneven, tensor_split=(1.0, 1.0)) == [17, 15]
    assert stage_layers(*uneven, pipeline_split=(8, 24)) == [8, 24]
    # Where a device does not say how much it holds, nothing is known to cut by.
    assert stage_layers(DeviceChoice(0, "0", on_cpu=False), gpu(1, 24)) == [17, 15]
    # Memory counts, too.
    assert stage_layers(gpu(0, 3), gpu(1, 24), context_length=4096)[0] < 22


def test_without_speeds_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> float:
        raise RunError("measuring gpu 0 ended with code 139: no message")

    monkeypatch.setattr(measured, "device_speed", fail)
    found = arranged(gpu(0, 8), gpu(1, 24))
    assert columns(found) == pytest.approx([0.25, 0.75], abs=0.02)
    assert str(found.split).endswith(": by memory: measuring gpu 0 ended with code 139: no message")


def test_devices_that_are_not_here_need_a_cap() -> None:
    unknown = [DeviceChoice(0, "0", on_cpu=False), gpu(1, 24)]
    with pytest.raises(
        UsageError, match="auto: how much memory 0 has is not known; say so with --max-memory"
    ):
        arranged(*unknown)
    assert sum(columns(arranged(*unknown, max_memory={0: 8 << 30}))) == 1


@given(
    st.lists(st.tuples(st.floats(1.5, 48), st.floats(1, 1000)), min_size=1, max_size=8),
    st.sampled_from([None, 512, 8192, 60_000]),
)
@examples(20)
def test_a_split_fits_whenever_shares_by_memory_do(
    devices: list[tuple[float, float]], context: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        by_name = {f"gpu {index}": speed for index, (_, speed) in enumerate(devices)}
        patch.setattr(measured, "device_speed", lambda _config, choice, *_: by_name[choice.name])
        choices = [gpu(index, gigabytes) for index, (gigabytes, _) in enumerate(devices)]
        usable = [choice.memory_bytes - max(128 << 20, 0.03 * choice.memory_bytes) for choice in choices]
        by_memory = tuple(float(f"{each / math.fsum(usable):.2g}") for each in usable)
        given_shares = config_of(SHAPE, tensor_split=by_memory, context_length=context)
        try:
            expected = arrange(given_shares, MODEL, choices)
        except UsageError:
            return
        found = arranged(*choices, context_length=context)
        assert sum(columns(found)) == pytest.approx(1)
        enough = min(ROOM, expected.limits.context_length)
        assert found.limits.context_length >= enough


def test_the_value_of_the_option() -> None:
    assert parse_split("auto") == "auto"
    assert parse_split("3,1") == (3.0, 1.0)
    with pytest.raises(UsageError, match="--tensor-split automatic: numbers separated by commas"):
        parse_split("automatic")
