"""Which devices `--devices all` takes, and what is said about those that it does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tests.unit.listed_devices import (
    AMDVLK,
    GEFORCE,
    INTEGRATED,
    LAVAPIPE,
    NEWER_LAVAPIPE,
    NVK,
    RADEON,
    SECOND_GEFORCE,
    SECOND_NVK,
    SWIFTSHADER,
    device,
    numbered,
)
from tplaunch.launcher.device_choice import left_out
from tplaunch.launcher.devices import DeviceChoice, DeviceList, choose_devices, remarks

Listed = dict[str, Any]
NO_PCI = {"pci_address": ""}
SAME_UUID = {"uuid": "ee" * 16}


def all_of(*devices: Listed) -> list[int | None]:
    return [choice.index for choice in choose_devices("all", DeviceList(numbered(*devices), ""))]


@pytest.mark.parametrize(
    ("devices", "taken"),
    [
        ([GEFORCE], [0]),
        ([LAVAPIPE], [0]),
        ([], [None]),  # NumPy
        ([GEFORCE, SECOND_GEFORCE, INTEGRATED, LAVAPIPE], [0, 1]),
        ([LAVAPIPE, INTEGRATED, SECOND_GEFORCE, RADEON], [2, 3]),
        ([INTEGRATED, LAVAPIPE], [0]),
        ([LAVAPIPE, INTEGRATED], [1]),
        ([LAVAPIPE, SWIFTSHADER], [0]),
        ([SWIFTSHADER, LAVAPIPE], [1]),
        ([SWIFTSHADER], [0]),
        ([LAVAPIPE, NEWER_LAVAPIPE], [1]),
        ([NEWER_LAVAPIPE, LAVAPIPE | {"driver": "llvmpipe"}], [0]),
        ([NEWER_LAVAPIPE, LAVAPIPE | {"driver": "llvmpipe Mesa 25.1"}], [1]),
        ([NEWER_LAVAPIPE, LAVAPIPE], [0]),
        ([LAVAPIPE, LAVAPIPE], [0]),
        # A card by two drivers.
        ([NVK, GEFORCE], [1]),
        ([GEFORCE, NVK], [0]),
        ([NVK, SECOND_NVK, GEFORCE, SECOND_GEFORCE, LAVAPIPE], [2, 3]),
        ([NVK, SECOND_GEFORCE], [0, 1]),  # NVIDIA's own driver sees one of them only
        ([AMDVLK, RADEON], [1]),
        ([AMDVLK | NO_PCI, RADEON], [1]),  # by their UUID
        ([AMDVLK | NO_PCI, RADEON | NO_PCI], [1]),
        ([AMDVLK | {"driver_id": 1}, AMDVLK, RADEON | {"driver_id": 99}], [1]),
        ([RADEON | {"driver_id": 22}, RADEON], [1]),  # through a layer
        ([INTEGRATED, INTEGRATED | {"driver_version": 9}], [1]),  # an old and a new Mesa
        ([GEFORCE, GEFORCE], [0]),  # one driver by two manifests
        ([GEFORCE | {"unusable": "too old"}, NVK], [1]),
        # Two cards of one model stay two.
        ([GEFORCE, SECOND_GEFORCE], [0, 1]),
        ([GEFORCE | SAME_UUID, SECOND_GEFORCE | SAME_UUID], [0, 1]),
        ([GEFORCE | NO_PCI, SECOND_GEFORCE | NO_PCI], [0, 1]),
        ([GEFORCE | NO_PCI | SAME_UUID, SECOND_GEFORCE | NO_PCI | SAME_UUID], [0, 1]),
        ([RADEON | {"uuid": "0" * 32}, AMDVLK | {"uuid": "0" * 32, "pci_address": ""}], [0, 1]),
        ([GEFORCE, SECOND_GEFORCE | {"pci_address": GEFORCE["pci_address"]}], [0, 1]),  # parts of one card
        ([GEFORCE | SAME_UUID, RADEON | SAME_UUID], [0, 1]),
        # Kinds between cards and CPUs.
        ([device(0, "vGPU", type="virtual"), INTEGRATED, LAVAPIPE], [0]),
        ([device(0, "accelerator", type="other"), LAVAPIPE], [0]),
        # What can't be used does not count.
        ([GEFORCE | {"unusable": "too old"}, INTEGRATED, LAVAPIPE], [1]),
        ([GEFORCE | {"unusable": "too old"}, LAVAPIPE], [1]),
        ([GEFORCE | {"unusable": "too old"}], [None]),
        ([device(index, f"card {index}") for index in range(10)], [*range(8)]),
    ],
)
def test_all_takes_the_best_kind_and_each_card_once(devices: list[Listed], taken: list[int | None]) -> None:
    assert all_of(*devices) == taken


DEVICES = (GEFORCE, NVK, SECOND_GEFORCE, SECOND_NVK, RADEON, AMDVLK, INTEGRATED, LAVAPIPE, SWIFTSHADER)


@given(st.lists(st.sampled_from(DEVICES), unique_by=lambda each: str(each["name"]) + str(each["uuid"])))
@examples(200)
def test_the_order_of_the_list_does_not_matter(devices: list[Listed]) -> None:
    def taken(listed: list[Listed]) -> set[tuple[str, str]]:
        found = numbered(*listed)
        return {(each["name"], each["uuid"]) for each in found if not left_out(found)[each["index"]]}

    assert taken(devices) == taken(devices[::-1])
    assert bool(taken(devices)) == bool(devices)


def test_each_device_that_is_left_out_has_a_reason() -> None:
    broken = GEFORCE | {"unusable": "too old"}
    assert left_out(numbered(NVK, GEFORCE, INTEGRATED, LAVAPIPE, broken)) == {
        0: "device 1 is the same hardware by a preferred driver",
        1: "",
        2: "a discrete card is there",
        3: "a discrete card is there",
        4: "it can't be used",
    }


def test_an_index_means_any_listed_device_and_a_name_the_preferred_driver() -> None:
    listed = DeviceList(numbered(NVK, GEFORCE, SECOND_GEFORCE, LAVAPIPE, SWIFTSHADER), "")

    def chosen(text: str) -> list[int | None]:
        return [choice.index for choice in choose_devices(text, listed)]

    assert chosen("0,1,3") == [0, 1, 3]
    assert chosen("all,3") == [1, 2, 3]
    assert chosen("nvk") == [0]
    assert chosen("SwiftShader,llvm") == [4, 3]
    one_card = DeviceList(numbered(NVK, GEFORCE), "")
    assert [choice.index for choice in choose_devices("geforce", one_card)] == [1]


# What is said.

CLOSED = "/dev/dri/renderD128, the render node of a card, may not be opened"
NEEDED = "an NVIDIA card needs NVIDIA's driver"


def said(text: str, listed: DeviceList) -> list[str]:
    return remarks(text.split(","), listed, choose_devices(text, listed))


def test_a_card_that_is_shut_is_said_where_the_cpu_works_instead() -> None:
    shut = DeviceList(numbered(LAVAPIPE), "", (CLOSED,))
    assert said("all", shut) == [CLOSED]
    assert said("0", shut) == [CLOSED]
    assert said("numpy", shut) == []
    assert said("all", DeviceList(numbered(GEFORCE), "", (CLOSED,))) == [CLOSED]  # another card's
    assert said("0", DeviceList(numbered(GEFORCE), "", (CLOSED,))) == []
    (sentence,) = said("all", DeviceList((), "", (CLOSED,)))
    assert sentence.startswith(f"there is no Vulkan device ({CLOSED}); the model runs on cpu:")
    with pytest.raises(ValueError, match=r"no Vulkan device .radeon.; there are: .*; /dev/dri/"):
        choose_devices("radeon", shut)


def test_a_card_without_a_driver_is_said_where_the_cpu_works_instead() -> None:
    assert said("all", DeviceList(numbered(LAVAPIPE), "", (), NEEDED)) == [f"a card takes no part: {NEEDED}"]
    assert said("all", DeviceList(numbered(RADEON), "", (), NEEDED)) == []
    (sentence,) = said("all", DeviceList((), "no driver", (), NEEDED))
    assert sentence.startswith(f"there is no Vulkan device (no driver; {NEEDED}); the model runs on cpu:")
    assert said("all", DeviceList(numbered(LAVAPIPE), "")) == []
    (sentence,) = said("all", DeviceList(numbered(GEFORCE | {"unusable": "too old"}), ""))
    assert "none of the Vulkan devices can be used, `tplaunch devices` says why" in sentence
    assert "; the model runs on cpu:" in sentence


def test_cards_beyond_the_ranks_are_said() -> None:
    cards = numbered(*(device(index, f"card {index}") for index in range(10)))
    (sentence,) = said("all", DeviceList(cards, ""))
    assert sentence == "no part is taken by the devices 8, 9: all takes at most 8"
    assert said("9,8", DeviceList(cards, "")) == []


def test_a_choice_knows_the_activations_that_a_device_lacks() -> None:
    (choice,) = choose_devices("0", DeviceList(numbered(GEFORCE | {"matrices": []}), ""))
    assert choice.lacks == {"f16"}
    assert DeviceChoice(None, "numpy").lacks == frozenset()
