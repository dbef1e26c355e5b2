"""Chooses the devices that `--devices all` takes, from what the drivers said of them. It asks no driver.

All cards take part, and nothing beside them that would only slow them down: a rank waits for the slowest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tplaunch.coordinator.split.plan import MAX_GROUP

Listed = dict[str, Any]  # worker.vulkan.listing.PhysicalDevice as plain data

# The kinds of devices, the best first, by the words of worker.vulkan.listing.TYPES. One kind is taken.
KINDS = {
    "discrete": "a discrete card",
    "virtual": "a virtual card",
    "integrated": "an integrated GPU",
    "other": "a device of another kind",
    "cpu": "a driver for CPUs",
}
# The drivers that offer the same hardware, the best first, by VkDriverId. What is missing comes before the
# layered ones, which translate to another driver's interface.
DRIVERS = (
    4,  # NVIDIA's own, before NVK
    3,  # RADV, before AMDVLK and AMD's proprietary driver
    6,  # Mesa's for Intel
    2,  # AMDVLK
    1,  # AMD's proprietary driver
    24,  # NVK
    13,  # llvmpipe, before SwiftShader
    10,  # SwiftShader
)
LAYERED = (22, 23, 14)  # Venus, Dozen, MoltenVK
VERSION = re.compile(r"[0-9]+(\.[0-9]+)+")  # the first in a driver's name and version
VERSION_NUMBERS = 3
NONE = "none"  # --devices of a head that has no rank of its own
TOO_MANY = f"all takes at most {MAX_GROUP}"


def left_out(devices: Sequence[Listed]) -> dict[int, str]:
    """Says by each device's index why `all` leaves it out; an empty string is for one that it takes."""
    usable = [device for device in devices if not device["unusable"]]
    reasons = {device["index"]: "it can't be used" for device in devices}
    best = {kind: [device for device in usable if device["type"] == kind] for kind in KINDS}
    taken = next((kind for kind in KINDS if best[kind]), None)
    num_taken = 0
    for device in usable:
        better = preferred(device, usable)
        if device["type"] != taken and taken is not None:
            reason = f"{KINDS[taken]} is there"
        elif better is not device:
            reason = f"device {better['index']} is the same hardware by a preferred driver"
        elif num_taken == MAX_GROUP:
            reason = TOO_MANY
        else:
            reason, num_taken = "", num_taken + 1
        reasons[device["index"]] = reason
    return reasons


def preferred(device: Listed, devices: Sequence[Listed]) -> Listed:
    """Returns the entry by which the hardware of this one is best used: itself where it is listed once."""
    return min((other for other in devices if is_same_hardware(device, other)), key=_rank_of_driver)


def is_same_hardware(one: Listed, other: Listed) -> bool:
    """Tells whether two entries are one card, or one machine's processor, by two drivers or one found twice.

    Two cards of one model must stay two, also where a driver gives both of them the same UUID, as some did.
    """
    if one["index"] == other["index"]:
        return True
    if "cpu" in (one["type"], other["type"]):
        return bool(one["type"] == other["type"])
    if (one["vendor_id"], one["device_id"]) != (other["vendor_id"], other["device_id"]):
        return False
    same_uuid = one["uuid"] == other["uuid"] and one["uuid"].strip("0") != ""
    same_driver = one["driver_id"] == other["driver_id"]
    if one["pci_address"] and other["pci_address"]:  # two parts of one card have UUIDs of their own
        return bool(one["pci_address"] == other["pci_address"] and (same_uuid or not same_driver))
    return same_uuid and not same_driver


def _rank_of_driver(device: Listed) -> tuple[int, int, tuple[int, ...], int]:
    """Orders entries, the best first: by driver, then the newest of that driver, then the first."""
    driver = device["driver_id"]
    if driver in LAYERED:
        place = len(DRIVERS) + 1 + LAYERED.index(driver)
    else:
        place = DRIVERS.index(driver) if driver in DRIVERS else len(DRIVERS)
    return place, -device["driver_version"], _newest_first(device["driver"]), device["index"]


def _newest_first(driver: str) -> tuple[int, ...]:
    """Orders a driver's versions by its words: every lavapipe counts itself as 1, and says Mesa 25.0."""
    found = VERSION.search(driver)
    numbers = [-int(number) for number in found[0].split(".")] if found else []
    return tuple((numbers + [0] * VERSION_NUMBERS)[:VERSION_NUMBERS])
