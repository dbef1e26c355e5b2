"""Devices are equal where their drivers are, too: for routing, for speeds, and for what was measured."""

from __future__ import annotations

import dataclasses
import itertools
import platform
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.models import LIMITS, SPEC, config_of
from tplaunch.coordinator.architectures.shapes import SHAPES
from tplaunch.coordinator.gguf.origin import FilePart, Origin
from tplaunch.coordinator.messages import Attached, Connect, Message, Ready
from tplaunch.coordinator.options import RankOptions
from tplaunch.coordinator.serving.channel import WorkerError
from tplaunch.coordinator.serving.control import WorkerChannel
from tplaunch.coordinator.serving.engine import Engine, EngineConfig
from tplaunch.coordinator.split.exchanges import shares_routing
from tplaunch.coordinator.split.plan import make_plan
from tplaunch.launcher.config import RandomModel, RunConfig
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting import speeds
from tplaunch.running_clock import RunningClock
from tplaunch.worker.measuring.two_phase import kept_measurements
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.vulkan.listing import PhysicalDevice
from tplaunch.worker.vulkan.measuring.tuning import open_measurements

CARD = PhysicalDevice(
    index=0,
    name="A card",
    type="discrete",
    driver="a driver 1.0",
    driver_version=4194304,
    driver_id=3,
    uuid="00",
    vendor_id=0x1002,
    device_id=0x73FF,
    pci_address="",
    api_version=(1, 3),
    memory_bytes=1 << 33,
    available_bytes=1 << 33,
    max_allocation=1 << 32,
    max_workgroup_counts=(65535, 65535, 65535),
    subgroup_size=32,
    min_subgroup_size=32,
    max_subgroup_size=64,
    max_invocations=1024,
    import_alignment=4096,
    integer_dot_product=True,
    int64=True,
    float16=True,
    cooperative_matrix=False,
    eight_lanes=False,
    unusable=None,
)
OTHERS: list[dict[str, Any]] = [
    {"driver": "a driver 1.1"},
    {"driver": "another driver 1.0"},
    {"driver_version": 4194305},
    {"driver_id": 1},
    {"vendor_id": 0x10DE},
    {"device_id": 0x73EF},
    {"name": "Another card"},
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_cards_that_are_made_alike_are_of_one_kind() -> None:
    assert dataclasses.replace(CARD, index=1, uuid="01", available_bytes=5).kind == CARD.kind


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_a_device_with_another_driver_is_another_kind(change: dict[str, Any]) -> None:
    kinds = [CARD.kind, dataclasses.replace(CARD, **change).kind]
    share = make_plan(SHAPES["qwen3-30b-a3b"].spec, [1.0, 1.0])[0]
    assert shares_routing(share, kinds) and not shares_routing(share, kinds[:1] * 2)
    assert not shares_routing(make_plan(SPEC, [1.0, 1.0])[0], kinds)
    paths = {open_measurements(card).path for card in (CARD, dataclasses.replace(CARD, **change))}
    assert len(paths) == 2
    assert kept_measurements(kinds).path != kept_measurements(kinds[:1] * 2).path


def test_what_was_measured_of_a_cpus_driver_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = (CARD, dataclasses.replace(CARD, type="cpu"))
    here = [open_measurements(card).path for card in cards]
    monkeypatch.setattr(platform, "node", lambda: "another machine with the same home")
    assert [open_measurements(card).path == path for card, path in zip(cards, here, strict=True)] == [
        True,
        False,
    ]


def test_what_was_measured_of_ranks_is_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = kept_measurements([CARD.kind] * 3).path
    monkeypatch.setattr(platform, "node", lambda: "another machine with the same home")
    assert kept_measurements([CARD.kind] * 3).path != here


def test_numpy_is_of_a_kind_with_its_version() -> None:
    assert np.__version__ in NumpyDevice(LIMITS).kind


def test_speeds_of_one_name_are_measured_for_each_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    numbers = itertools.count(100, 50)

    def device_speed(_config: RunConfig, choice: DeviceChoice) -> float:
        measured.append(choice.kind)
        return next(numbers)

    monkeypatch.setattr(speeds, "device_speed", device_speed)
    first, second, third = (
        DeviceChoice(index, CARD.name, on_cpu=False, kind=f"{CARD.name}, driver {driver}")
        for index, driver in enumerate("ABA")
    )
    config = config_of(RandomModel("llama-160m", "Q8_0"))
    assert speeds.rank_speeds(config, [first, second, third]) == [100, 150, 100]
    assert measured == [first.kind, second.kind]


class Told:
    """A channel to two ranks whose devices have one name and two drivers."""

    num_ranks = 2

    def __init__(self) -> None:
        self.clock = RunningClock()
        self.sent: list[Message] = []
        self._ready = iter((0, 1))

    def greet(self, timeout_seconds: float) -> None:
        """Both are there."""

    def send(self, rank: int, message: Message) -> None:
        self.sent.append(message)

    def broadcast(self, message: Message) -> None:
        self.sent.append(message)

    def collect(self, *_: object) -> list[Attached]:
        return [Attached("", CARD.name, f"{CARD.name}, driver {driver}", "") for driver in "AB"]

    def receive(self, _deadline: float) -> tuple[int, Message]:
        return next(self._ready), Ready(0, "import")


def test_ranks_learn_the_kinds_of_their_peers_devices() -> None:
    channel, plan = Told(), make_plan(SPEC, [1.0, 1.0])
    config = EngineConfig(RankOptions(timeout_seconds=1.0), LIMITS, 1.0)
    engine = Engine(cast(WorkerChannel, channel), Origin((), ""), [], SPEC, plan, config)
    engine.load(lambda rank, progress: None)
    assert channel.sent[-1] == Connect(("", ""), ("A card, driver A", "A card, driver B"), ((), ()))


def test_a_file_that_has_changed_is_named_as_the_ranks_host_knows_it() -> None:
    """The head's path would send a person to another machine."""
    part = FilePart("/at/the/head/model.gguf", 10)
    config = EngineConfig(RankOptions(timeout_seconds=1.0), LIMITS, 1.0)
    plan = make_plan(SPEC, [1.0, 1.0])
    engine = Engine(cast(WorkerChannel, Told()), Origin((part,), "another"), [], SPEC, plan, config)
    with pytest.raises(
        WorkerError, match=r"^rank 0's copy of model\.gguf has changed: restore it$"
    ) as raised:
        engine.load(lambda rank, progress: None)
    assert raised.value.lasts
