"""Says what to install where a Vulkan loader or driver is missing, by the names of this distribution."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tplaunch.launcher.cards import AMD, INTEL, NVIDIA, closed_nodes, pci_cards, without_device

DRIVER_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")  # that tell the loader of no driver but theirs


@dataclass(frozen=True)
class Packages:
    """A family of distributions."""

    install: str  # the command, to run as root
    loader: str
    mesa: Mapping[int | None, str]  # by PCI vendor; None for a machine without a card
    nvidia: str  # NVIDIA's own driver


MESA = dict.fromkeys((AMD, INTEL, None), "mesa-vulkan-drivers")
ARCH = {AMD: "vulkan-radeon", INTEL: "vulkan-intel", None: "vulkan-swrast"}
SUSE = {AMD: "libvulkan_radeon", INTEL: "libvulkan_intel", None: "libvulkan_lvp"}
FAMILIES = {  # by ID or ID_LIKE of os-release
    "ubuntu": Packages("apt-get install", "libvulkan1", MESA, "`ubuntu-drivers install`"),
    "debian": Packages("apt-get install", "libvulkan1", MESA, "the package nvidia-driver, in non-free"),
    "fedora": Packages("dnf install", "vulkan-loader", MESA, "the package akmod-nvidia of RPM Fusion"),
    "rhel": Packages("dnf install", "vulkan-loader", MESA, "the package akmod-nvidia of RPM Fusion"),
    "arch": Packages("pacman -S", "vulkan-icd-loader", ARCH, "the package nvidia-utils"),
    "suse": Packages("zypper install", "libvulkan1", SUSE, "the package nvidia-driver-G06-kmp-meta"),
}
GENERIC = "install the Vulkan loader and your card's Vulkan driver (Mesa's, for AMD and Intel)"


def unlisted_cards(devices: Sequence[dict[str, Any]], missing: str) -> tuple[tuple[str, ...], str]:
    """Returns a sentence for each card that can't be opened, and what other unlisted ones would need.

    devices: as the drivers list them. missing: as what_to_install takes it.
    """
    if any(map(os.environ.get, DRIVER_VARIABLES)):  # the user keeps to these drivers, whatever there is
        return (), "" if devices else what_to_install(os_release(), (), missing)
    nodes = closed_nodes()
    shut = without_device([node.pci_address for node in nodes], devices)
    closed = tuple(node.sentence for node in nodes if node.pci_address in shut)
    cards = {card.pci_address: card.vendor_id for card in pci_cards()}
    vendors = {cards[address] for address in without_device(list(cards), devices) if address not in shut}
    is_needed = vendors or missing or not (devices or closed)
    return closed, what_to_install(os_release(), vendors, missing) if is_needed else ""


def os_release() -> Mapping[str, str]:
    """Returns what /etc/os-release says; nothing where it is not there."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def what_to_install(release: Mapping[str, str], vendors: Collection[int], missing: str) -> str:
    """Says so in one clause.

    vendors: of the machine's cards. missing: loader, driver, or nothing where both are there.
    """
    variable = next((name for name in DRIVER_VARIABLES if os.environ.get(name)), None)
    if missing != "loader" and variable is not None:
        return f"{variable} is set, to {os.environ[variable]:.80}, and no other driver is looked for"
    family = _family(release)
    if family is None:
        return GENERIC
    packages = [family.loader] * (missing == "loader")
    packages += [family.mesa[vendor] for vendor in (AMD, INTEL) if vendor in vendors]
    if not vendors:
        packages.append(family.mesa[None])
    advice = []
    if packages:
        advice.append(f"run, as root, `{family.install} {' '.join(dict.fromkeys(packages))}`")
    if NVIDIA in vendors:
        advice.append(f"an NVIDIA card needs NVIDIA's driver: {family.nvidia}")
        if os.environ.get("NVIDIA_VISIBLE_DEVICES"):
            advice.append("a container gets its Vulkan part by NVIDIA_DRIVER_CAPABILITIES=all")
    return "; ".join(advice)


def _family(release: Mapping[str, str]) -> Packages | None:
    """Goes by the distribution itself before what it is like."""
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    return next((FAMILIES[name] for name in names if name in FAMILIES), None)
