"""Finds the cards that the kernel knows and the Vulkan drivers may not list, and says why they do not.

Reads /sys and opens render nodes, which is what a driver does first. Mesa passes over a node that it may not
open without a word, and then only its driver for CPUs is left.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DISPLAY_CLASS = "0x03"  # the first byte of a PCI class
AMD, NVIDIA, INTEL = 0x1002, 0x10DE, 0x8086  # PCI vendors whose cards have Vulkan drivers


@dataclass(frozen=True)
class Card:
    """A GPU on the PCI bus."""

    pci_address: str  # such as 0000:01:00.0
    vendor_id: int


@dataclass(frozen=True)
class ClosedNode:
    """A render node that this process may not open."""

    path: Path
    pci_address: str  # empty for a GPU that is no PCI device
    sentence: str  # which node, why, and what to do


def pci_cards(root: Path = Path("/sys")) -> tuple[Card, ...]:
    """Returns the GPUs of the vendors above, whether a driver knows them or not."""
    cards = []
    for folder in sorted((root / "bus/pci/devices").glob("*")):
        try:
            kind, vendor = (folder / "class").read_text(), int((folder / "vendor").read_text(), 16)
        except (OSError, ValueError):
            continue
        if kind.startswith(DISPLAY_CLASS) and vendor in (AMD, NVIDIA, INTEL):
            cards.append(Card(folder.name, vendor))
    return tuple(cards)


def closed_nodes(
    devices: Path = Path("/dev/dri"),
    root: Path = Path("/sys"),
    open_node: Callable[[Path, int], int] = os.open,
) -> tuple[ClosedNode, ...]:
    """Returns the render nodes that can't be opened to read and write."""
    closed = []
    for path in sorted(devices.glob("renderD*")):
        try:
            os.close(open_node(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            device = root / "class/drm" / path.name / "device"
            is_on_pci = (device / "subsystem").resolve().name == "pci"
            address = device.resolve().name if is_on_pci else ""
            closed.append(ClosedNode(path, address, _sentence(path, error)))
    return tuple(closed)


def _sentence(path: Path, error: OSError) -> str:
    start = f"{path}, the render node of a card, may not be opened"
    if error.errno == errno.EPERM:
        return f"{start} here: a container must be given it (--device {path})"
    if error.errno != errno.EACCES:
        return f"{path}, the render node of a card, can't be opened: {error.strerror}"
    try:
        node = path.stat()
    except OSError:
        return start
    if node.st_mode & (stat.S_IRGRP | stat.S_IWGRP) != stat.S_IRGRP | stat.S_IWGRP:
        mode = stat.S_IMODE(node.st_mode)
        return f"{start}: its mode is {mode:o}; let a group that you are in read and write it"
    try:
        group = grp.getgrgid(node.st_gid)
    except KeyError:
        number = node.st_gid
        return f"{start}: it belongs to the group {number}, which a container gets by --group-add {number}"
    if _user() in group.gr_mem:
        return f"{start}: it belongs to the group {group.gr_name}, which you have joined; log in again"
    return (
        f"{start}: it belongs to the group {group.gr_name}, which you are not in;"
        f" run `sudo usermod -aG {group.gr_name} $USER`, then log in again"
    )


def _user() -> str:
    """Returns the name of the user, or nothing for one without a name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def without_device(addresses: Sequence[str], devices: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the cards' PCI addresses that no listed device has.

    It returns none where a listed GPU has no address: it may be any of them.
    """
    found = {device["pci_address"] for device in devices if device["type"] != "cpu"}
    return [] if "" in found else [address for address in addresses if address not in found]
