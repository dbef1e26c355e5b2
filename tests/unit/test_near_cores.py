"""Ranks run near their cards: what /sys says of these, and how cores are dealt out by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tests.unit.listed_devices import device
from tplaunch.launcher.commands.explain import places_of_ranks
from tplaunch.launcher.cores import rank_cores
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.near_cores import Nearby, core_list, core_text, nearby

ADDRESS = "0000:c1:00.0"
CARD = DeviceChoice(0, "a card", on_cpu=False)
LAVAPIPE = DeviceChoice(1, "llvmpipe")


def card(root: Path, address: str = ADDRESS, **files: str) -> None:
    folder = root / "bus/pci/devices" / address
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_the_cores_near_a_card_are_read(tmp_path: Path) -> None:
    card(tmp_path, local_cpulist="16-31,48-63\n", numa_node="1\n")
    assert nearby(ADDRESS, tmp_path) == Nearby(frozenset([*range(16, 32), *range(48, 64)]), 1)


def test_a_node_tells_its_cores_where_the_card_does_not(tmp_path: Path) -> None:
    card(tmp_path, local_cpulist="\n", numa_node="0\n")
    node = tmp_path / "devices/system/node/node0"
    node.mkdir(parents=True)
    (node / "cpulist").write_text("0-3\n")
    assert nearby(ADDRESS, tmp_path) == Nearby(frozenset(range(4)), 0)


@pytest.mark.parametrize("node", ["-1\n", "", "none"])
def test_a_node_that_the_firmware_does_not_tell_is_none(tmp_path: Path, node: str) -> None:
    card(tmp_path, local_cpulist="0-1\n", numa_node=node)
    assert nearby(ADDRESS, tmp_path) == Nearby(frozenset({0, 1}), None)


@pytest.mark.parametrize("address", ["", "../../../etc", "0000:c1:00.0/..", "0000:c2:00.0"])
def test_nothing_is_near_what_is_no_card_here(tmp_path: Path, address: str) -> None:
    card(tmp_path, local_cpulist="0-1\n", numa_node="0\n")
    assert nearby(address, tmp_path) == Nearby()


@pytest.mark.parametrize("text", ["", "3-1", "a", "1,,2", "0-99999999", "1-2-3"])
def test_what_is_no_list_of_cores_tells_none(text: str) -> None:
    assert core_list(text) == frozenset()


@given(st.sets(st.integers(0, 300)))
@examples(100)
def test_cores_are_written_as_they_are_read(cores: set[int]) -> None:
    assert core_list(core_text(sorted(cores))) == cores


def test_ranks_get_the_cores_near_their_cards() -> None:
    one, other = replace(CARD, near_cores=frozenset(range(4))), replace(CARD, near_cores=frozenset({4, 5}))
    assert rank_cores([one, other, one], range(8)) == [[0, 1], [4, 5], [2, 3]]
    # Those without a card have the others.
    assert rank_cores([other, LAVAPIPE, LAVAPIPE], range(8)) == [[4, 5], [0, 1, 2], [3, 6, 7]]
    assert rank_cores([one, LAVAPIPE], range(4)) == [[0, 1], [2, 3]]  # all are near the card


def test_only_cores_that_the_process_may_use_count() -> None:
    near = replace(CARD, near_cores=frozenset(range(8, 16)))
    assert rank_cores([near, CARD], [6, 7, 8, 9]) == [[8, 9], [6, 7]]
    assert rank_cores([near, near], [0, 1]) == [[0], [1]]  # none of those near: all, as without


def test_a_choice_knows_what_is_near_and_no_pin_forgets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tplaunch.launcher import devices, near_cores

    card(tmp_path, local_cpulist="2-3\n", numa_node="0\n")
    monkeypatch.setattr(devices, "nearby", lambda address: near_cores.nearby(address, tmp_path))
    monkeypatch.setattr(
        devices,
        "list_devices",
        lambda: devices.DeviceList(
            (
                device(0, "card", pci_address=ADDRESS),
                device(1, "llvmpipe", type="cpu", pci_address=ADDRESS),  # none is pinned so
            ),
            "",
        ),
    )
    found = [choice.near_cores for choice in devices.select_devices("0,1")]
    assert found == [{2, 3}, frozenset()]
    assert [choice.near_cores for choice in devices.select_devices("0,1", pins=False)] == [frozenset()] * 2


def test_a_plan_says_where_ranks_run() -> None:
    near, far = replace(CARD, near_cores=frozenset({2, 3})), replace(CARD, host=1)
    assert places_of_ranks([near, LAVAPIPE, far], range(4)) == [
        "Rank 0 runs on the cores 2-3, near its card.",
        "Rank 1 runs on one of the cores 0-1.",
    ]
