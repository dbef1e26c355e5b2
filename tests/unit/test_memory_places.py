"""Sizes as people write them, --max-memory, and how much memory there is where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tests.unit.listed_devices import device
from tplaunch.launcher.commands.show import FEATURES, show_devices
from tplaunch.launcher.devices import DeviceChoice, DeviceList
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.fitting.memory_places import HOST, MemoryPlace, memory_places
from tplaunch.launcher.sizes import MAX_SIZE, UNITS, parse_max_memory, parse_message_sizes, parse_size

GIB = 1 << 30
SMALL = DeviceChoice(0, "small", on_cpu=False, memory_bytes=8 * GIB, available_bytes=7 * GIB)
LARGE = DeviceChoice(1, "large", on_cpu=False, memory_bytes=24 * GIB)
INTEGRATED = DeviceChoice(2, "integrated", on_cpu=False, memory_bytes=16 * GIB, integrated=True)
LAVAPIPE = DeviceChoice(3, "llvmpipe", memory_bytes=2 * GIB)
NUMPY = DeviceChoice(None, "numpy")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("123456789", 123456789),
        ("8GiB", 8 << 30),
        ("20GB", 20 * 10**9),
        ("20 gb", 20 * 10**9),
        ("1.5MiB", 3 << 19),
        ("512KiB", 1 << 19),
        ("3kb", 3000),
        (" 2TiB ", 1 << 41),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1", "1e9", "8G", "8 Gi B", "0", "0.1", "1_000", "2PiB", "9" * 99, "5000TiB", "1..5"],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is (no size|out of range)"):
        parse_size(text)


@given(st.integers(1, 999), st.sampled_from(sorted(UNITS)))
@examples(60)
def test_every_unit(count: int, unit: str) -> None:
    wanted = count * UNITS[unit]
    assert wanted > MAX_SIZE or parse_size(f"{count}{unit.lower()}") == wanted


def test_sizes_of_messages_may_have_short_units() -> None:
    assert parse_message_sizes("4,16k, 1.5M,64KiB") == (4, 1 << 14, 3 << 19, 1 << 16)


@pytest.mark.parametrize("text", ["", "0", "2", "6", "16G", "1025M", "K", "16K,", "-4", "4K4"])
def test_other_sizes_of_messages_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="multiples of 4 up to 1024M are needed, such as 16K,1M"):
        parse_message_sizes(text)


def test_caps_by_device() -> None:
    assert parse_max_memory("0=8GiB, 12 = 20GB,CPU=1024") == {0: 8 << 30, 12: 20 * 10**9, None: 1024}


@pytest.mark.parametrize(
    "text", ["", "0", "0=", "=8GiB", "0=8GiB,", "a=1", "-1=1", "0=8GiB,0=9GiB", "0:8GiB", "x" * 9999]
)
def test_caps_of_another_form_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="such as 0=8GiB,1=20GiB,cpu=16GB") as caught:
        parse_max_memory(text)
    assert len(str(caught.value)) < 300


def test_caps_of_devices_that_no_rank_is_on() -> None:
    with pytest.raises(UsageError, match="--max-memory 5: the ranks are on devices 0, 1"):
        memory_places([SMALL, LARGE], {5: 1})
    with pytest.raises(
        UsageError, match="--max-memory cpu: no rank is in this machine's memory, only on dev"
    ):
        memory_places([SMALL, LARGE], {None: 1})
    with pytest.raises(UsageError, match="--max-memory 0: the ranks are on the CPU; cpu stands for it"):
        memory_places([NUMPY], {0: 1})


def by_name(choices: list[DeviceChoice], caps: dict[int | None, int] | None = None) -> dict[str, MemoryPlace]:
    return {place.name: place for place in memory_places(choices, caps or {})}


def test_a_device_has_what_is_free_less_a_reserve() -> None:
    places = by_name([SMALL, LARGE, SMALL])
    small, large = places["device 0 (small)"], places["device 1 (large)"]
    assert small.ranks == (0, 2) and large.ranks == (1,)
    assert (small.capacity, large.capacity) == (8 * GIB, 24 * GIB)
    assert 6.7 * GIB < small.usable <= 7 * GIB - (128 << 20)
    assert 23 * GIB < large.usable < 24 * GIB - (128 << 20)
    assert HOST not in places


def test_what_runs_on_the_cpu_and_integrated_devices_share_the_machines_memory() -> None:
    memory = psutil.virtual_memory()
    places = by_name([LAVAPIPE, NUMPY, INTEGRATED, LARGE])
    assert places[HOST].ranks == (0, 1, 2) and places[HOST].capacity == memory.total
    assert 0.5 * memory.available < places[HOST].usable < 0.85 * memory.available
    assert places["device 2 (integrated)"].ranks == (2,)
    assert "device 3 (llvmpipe)" not in places  # what it reports is not what there is


def test_caps_lower_what_there_is() -> None:
    caps: dict[int | None, int] = {0: 3 * GIB, 1: 100 * GIB, 3: GIB, None: 2 * GIB}
    places = by_name([SMALL, LARGE, LAVAPIPE, NUMPY], caps)
    small, large = places["device 0 (small)"], places["device 1 (large)"]
    assert (small.capacity, small.usable, small.is_capped) == (3 * GIB, 3 * GIB, True)
    assert (large.capacity, large.is_capped) == (24 * GIB, False)
    lavapipe = places["device 3 (llvmpipe)"]
    assert (lavapipe.ranks, lavapipe.capacity, lavapipe.usable) == ((2,), GIB, GIB)
    assert (places[HOST].ranks, places[HOST].capacity, places[HOST].is_capped) == ((2, 3), 2 * GIB, True)


def test_devices_that_are_not_here_have_what_the_user_says() -> None:
    unknown = DeviceChoice(0, "0", on_cpu=False)
    assert unknown.is_unknown and not SMALL.is_unknown and not NUMPY.is_unknown
    assert by_name([unknown]) == {}
    place = by_name([unknown], {0: GIB})["device 0 (0)"]
    assert (place.capacity, place.usable) == (GIB, GIB)


def test_free_memory_is_shown_where_the_driver_tells_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: dict[str, Any] = dict.fromkeys(FEATURES, False) | device(0, "card", memory_bytes=8 * GIB)
    said |= {"compute_queue": False, "driver": "", "min_subgroup_size": 8, "max_subgroup_size": 8}
    devices = tuple(said | {"available_bytes": free} for free in (8 * GIB, 7 * GIB))
    monkeypatch.setattr("tplaunch.launcher.commands.show.list_devices", lambda: DeviceList(devices, ""))
    show_devices(as_json=False)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "memory      8,192.0 MiB" in lines
    assert "memory      8,192.0 MiB, of which 7,168.0 MiB are free" in lines


def test_the_head_of_several_hosts_is_named() -> None:
    """The sentence is read on all of them, where "this machine" would be another one."""
    head = replace(NUMPY, host_name="alpha")
    other = replace(NUMPY, host=1, host_name="beta", host_memory=(1 << 30, 1 << 30, ""))
    names = [place.name for place in memory_places([head, other], {None: 1 << 20})]
    assert names == ["the memory of alpha", "the memory of beta"]
    assert [place.name for place in memory_places([NUMPY], {None: 1 << 20})] == [HOST]
