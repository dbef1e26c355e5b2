"""Cards that no driver lists: a render node that is shut, a driver or a loader that is not installed."""

from __future__ import annotations

import errno
import grp
import os
import pwd
from pathlib import Path

import pytest

from tests.unit.listed_devices import GEFORCE, INTEGRATED, LAVAPIPE, RADEON
from tplaunch.launcher import devices, driver_packages
from tplaunch.launcher.cards import (
    AMD,
    INTEL,
    NVIDIA,
    Card,
    ClosedNode,
    closed_nodes,
    pci_cards,
    without_device,
)
from tplaunch.launcher.devices import DeviceList, list_devices
from tplaunch.launcher.driver_packages import what_to_install

ADDRESS = "0000:03:00.0"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Folders as /sys and /dev/dri are, with two cards, a network card and a display without Vulkan."""
    for address, kind, vendor in (
        (ADDRESS, "0x030000", "0x1002"),
        ("0000:07:00.0", "0x030200", "0x10de"),
        ("0000:05:00.0", "0x020000", "0x8086"),
        ("0000:06:00.0", "0x030000", "0x1a03"),
    ):
        folder = tmp_path / "sys/bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "class").write_text(kind + "\n")
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "subsystem").symlink_to(tmp_path / "sys/bus/pci")
    (tmp_path / "sys/bus/pci/devices/broken").mkdir()
    drm = tmp_path / "sys/class/drm/renderD128"
    drm.mkdir(parents=True)
    (drm / "device").symlink_to(tmp_path / "sys/bus/pci/devices" / ADDRESS)
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri/renderD128").touch()
    (tmp_path / "dri/renderD128").chmod(0o660)
    (tmp_path / "dri/card0").touch()
    return tmp_path


def closed(machine: Path, code: int) -> tuple[ClosedNode, ...]:
    def refuse(path: Path, flags: int) -> int:
        raise OSError(code, os.strerror(code), path)

    return closed_nodes(machine / "dri", machine / "sys", refuse)


def test_cards_are_found_whether_a_driver_knows_them_or_not(machine: Path) -> None:
    assert pci_cards(machine / "sys") == (Card(ADDRESS, AMD), Card("0000:07:00.0", NVIDIA))
    assert pci_cards(machine / "nowhere") == ()


def test_nodes_that_open_are_not_said(machine: Path) -> None:
    assert closed_nodes(machine / "dri", machine / "sys") == ()
    assert closed_nodes(machine / "nowhere", machine / "sys") == ()


def test_a_shut_node_is_named_with_its_group_and_what_to_do(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = machine / "dri/renderD128"
    group = grp.struct_group(("render", "x", path.stat().st_gid, ["someone"]))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: group)
    (node,) = closed(machine, errno.EACCES)
    assert (node.path, node.pci_address) == (path, ADDRESS)
    assert str(path) in node.sentence and "the group render, which you are not in" in node.sentence
    assert "`sudo usermod -aG render $USER`" in node.sentence
    me = pwd.getpwuid(os.geteuid()).pw_name
    joined = grp.struct_group(("video", "x", path.stat().st_gid, [me]))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: joined)
    (node,) = closed(machine, errno.EACCES)
    assert "the group video, which you have joined; log in again" in node.sentence
    path.chmod(0o600)
    (node,) = closed(machine, errno.EACCES)
    assert "its mode is 600" in node.sentence


def test_a_container_is_told_what_it_must_be_given(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (node,) = closed(machine, errno.EPERM)
    assert f"--device {machine / 'dri/renderD128'}" in node.sentence

    def unknown(gid: int) -> None:
        raise KeyError(gid)

    monkeypatch.setattr(grp, "getgrgid", unknown)
    (node,) = closed(machine, errno.EACCES)
    assert f"--group-add {(machine / 'dri/renderD128').stat().st_gid}" in node.sentence


def test_a_node_that_fails_otherwise_says_so(machine: Path) -> None:
    (node,) = closed(machine, errno.ENODEV)
    assert node.sentence.endswith("can't be opened: No such device")


def test_a_gpu_that_is_no_pci_device_has_no_address(machine: Path) -> None:
    device = machine / "sys/class/drm/renderD128/device"
    device.unlink()
    device.symlink_to(machine / "sys/bus")
    (node,) = closed(machine, errno.EACCES)
    assert node.pci_address == ""


def test_a_card_that_a_driver_lists_lacks_nothing() -> None:
    addresses = [RADEON["pci_address"], GEFORCE["pci_address"]]
    assert without_device(addresses, [RADEON, LAVAPIPE]) == [GEFORCE["pci_address"]]
    assert without_device(addresses, [LAVAPIPE]) == addresses
    assert without_device(addresses, [INTEGRATED | {"pci_address": ""}]) == []


def test_listing_names_the_node_and_not_a_driver_for_its_card(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card behind a shut node needs no other driver; the NVIDIA card beside it does."""
    monkeypatch.delenv("VK_DRIVER_FILES", raising=False)
    monkeypatch.delenv("VK_ICD_FILENAMES", raising=False)
    monkeypatch.setattr(devices, "_ask_drivers", lambda: {"devices": [LAVAPIPE], "error": ""})
    monkeypatch.setattr(driver_packages, "closed_nodes", lambda: closed(machine, errno.EACCES))
    monkeypatch.setattr(driver_packages, "pci_cards", lambda: pci_cards(machine / "sys"))
    monkeypatch.setattr(driver_packages, "os_release", lambda: {"ID": "debian"})
    found = list_devices()
    assert "renderD128" in found.closed[0]
    assert found.missing == "an NVIDIA card needs NVIDIA's driver: the package nvidia-driver, in non-free"
    monkeypatch.setattr(devices, "_ask_drivers", lambda: {"devices": [RADEON, GEFORCE], "error": ""})
    assert list_devices() == DeviceList((RADEON, GEFORCE), "")
    monkeypatch.setenv("VK_DRIVER_FILES", "/lavapipe.json")  # the user keeps to one driver
    monkeypatch.setattr(devices, "_ask_drivers", lambda: {"devices": [LAVAPIPE], "error": ""})
    assert list_devices() == DeviceList((LAVAPIPE,), "")


DEBIAN, UBUNTU = {"ID": "debian"}, {"ID": "ubuntu", "ID_LIKE": "debian"}
MINT, ARCH = {"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, {"ID": "arch"}


@pytest.mark.parametrize(
    ("release", "vendors", "missing", "advice"),
    [
        (DEBIAN, [], "loader", "run, as root, `apt-get install libvulkan1 mesa-vulkan-drivers`"),
        (MINT, [AMD, INTEL], "driver", "run, as root, `apt-get install mesa-vulkan-drivers`"),
        (UBUNTU, [NVIDIA], "driver", "an NVIDIA card needs NVIDIA's driver: `ubuntu-drivers install`"),
        ({"ID": "fedora"}, [AMD], "loader", "`dnf install vulkan-loader mesa-vulkan-drivers`"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, [], "driver", "`dnf install mesa-vulkan-drivers`"),
        (ARCH, [AMD, INTEL], "loader", "`pacman -S vulkan-icd-loader vulkan-radeon vulkan-intel`"),
        (ARCH, [NVIDIA], "loader", "`pacman -S vulkan-icd-loader`; an NVIDIA card needs NVIDIA's driver: "),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, [], "", "`zypper install libvulkan_lvp`"),
        ({"ID": "nixos"}, [AMD], "driver", "install the Vulkan loader and your card's Vulkan driver"),
        ({}, [], "loader", "install the Vulkan loader"),
    ],
)
def test_what_is_missing_has_a_package(
    release: dict[str, str], vendors: list[int], missing: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.delenv(variable, raising=False)
    assert advice in what_to_install(release, vendors, missing)


def test_a_variable_that_hides_the_drivers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VK_DRIVER_FILES", "/gone.json")
    assert "VK_DRIVER_FILES is set, to /gone.json" in what_to_install(DEBIAN, [], "driver")
    assert "libvulkan1" in what_to_install(DEBIAN, [], "loader")


def test_a_container_with_half_of_nvidias_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "all")
    assert "NVIDIA_DRIVER_CAPABILITIES=all" in what_to_install(DEBIAN, [NVIDIA], "driver")
