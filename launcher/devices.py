"""Which devices there are, and which the user means. Listing happens in a process of its own: a driver that
crashes or hangs while it starts takes that process along, not the launcher."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tplaunch
from tplaunch.launcher.config import UsageError

LIST_TIMEOUT_SECONDS = 60
# As `python -m tplaunch.worker`, but sure to find the package beside this one: -m looks in the current folder
# first.
PACKAGE_ROOT = str(Path(tplaunch.__file__).resolve().parents[1])
BOOTSTRAP = f"""import sys
sys.path = [{PACKAGE_ROOT!r}, *filter(None, sys.path)]
from tplaunch.worker.__main__ import main
sys.exit(main())"""
WORKER_COMMAND = [sys.executable, "-c", BOOTSTRAP]
CPU = "cpu"


@dataclass(frozen=True)
class DeviceChoice:
    """One rank's device. index is None for NumPy on the CPU."""

    index: int | None
    name: str
    uuid: str = ""
    on_cpu: bool = True  # its work is done by this machine's cores: a CPU driver, or NumPy
    memory_bytes: int = 0  # of a device with memory of its own
    available_bytes: int = 0  # of these, now; 0 where the driver does not say
    max_allocation: int = 0  # bytes of one buffer; 0 where that is not known
    integrated: bool = False  # its memory is the machine's
    driver: str = ""  # name and version, as it words them

    @property
    def is_in_host_memory(self) -> bool:
        return self.on_cpu or self.integrated

    @property
    def is_unknown(self) -> bool:
        """Only planned for: no driver has told about it."""
        return not self.on_cpu and not self.memory_bytes


@dataclass(frozen=True)
class DeviceList:
    """What the drivers report; `error` says why there is nothing."""

    devices: tuple[dict[str, Any], ...]  # worker.vulkan.listing.PhysicalDevice as plain data
    error: str


def list_devices() -> DeviceList:
    """Asks the Vulkan loader, in a child process."""
    try:
        result = subprocess.run(
            [*WORKER_COMMAND, "--list-devices"],
            capture_output=True, text=True, timeout=LIST_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return DeviceList((), f"the Vulkan drivers did not answer within {LIST_TIMEOUT_SECONDS} s")
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return DeviceList((), f"listing the Vulkan devices ended with code {result.returncode}: {last}")
    found = json.loads(result.stdout.splitlines()[-1])
    return DeviceList(tuple(found["devices"]), found["error"])


def planned_devices(text: str) -> tuple[list[DeviceChoice], str]:
    """One choice per rank for a plan, which may be for another machine.

    Devices that are not here are unknown; also returns why, or nothing.
    """
    parts = _parts(text)
    try:
        return select_devices(text), ""
    except UsageError as error:
        if "all" in parts:
            raise
        return [_planned(part) for part in parts], str(error)


def _planned(part: str) -> DeviceChoice:
    if part == CPU:
        return DeviceChoice(None, CPU)
    return DeviceChoice(int(part) if re.fullmatch("[0-9]{1,4}", part) else -1, part, on_cpu=False)


def select_devices(text: str) -> list[DeviceChoice]:
    """One choice per rank for a --devices value. Asks the drivers only where a Vulkan device is named."""
    parts = _parts(text)
    if all(part == CPU for part in parts):
        return [DeviceChoice(None, CPU)] * len(parts)
    return choose_devices(text, list_devices())


def choose_devices(text: str, listed: DeviceList) -> list[DeviceChoice]:
    """The devices that `text` names: indices, names, `all` and `cpu`, separated by commas."""
    chosen: list[DeviceChoice] = []
    for part in _parts(text):
        if part == CPU:
            chosen.append(DeviceChoice(None, CPU))
        elif not listed.devices:
            reason = listed.error or "no Vulkan driver is installed"
            raise UsageError(
                f"--devices {text}: there is no Vulkan device ({reason}); --devices cpu runs without one"
            )
        elif part == "all":
            chosen += [_choice(device) for device in listed.devices if not device["unusable"]]
        else:
            chosen.append(_choice(_find(part, listed)))
    if not chosen:
        raise UsageError(
            f"--devices {text}: none of the Vulkan devices can be used; `tplaunch devices` says why"
        )
    return chosen


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(
            f"--devices {text!r}: device indices or names separated by commas are needed, such as 0,1"
        )
    return [part.lower() if part.lower() in (CPU, "all") else part for part in parts]


def _find(part: str, listed: DeviceList) -> dict[str, Any]:
    names = ", ".join(f"{device['index']} ({device['name']})" for device in listed.devices)
    if re.fullmatch("-?[0-9]+", part):
        matches = [device for device in listed.devices if str(device["index"]) == part]
    else:
        matches = [device for device in listed.devices if part.lower() in device["name"].lower()]
    if not matches:
        raise UsageError(f"there is no Vulkan device {part!r}; there are: {names}")
    if len(matches) > 1:
        indices = ", ".join(str(device["index"]) for device in matches)
        raise UsageError(f"{part!r} fits the devices {indices}; name one by its index")
    return matches[0]


def _choice(device: dict[str, Any]) -> DeviceChoice:
    if device["unusable"]:
        raise UsageError(f"device {device['index']} ({device['name']}) can't be used: {device['unusable']}")
    return DeviceChoice(
        index=device["index"],
        name=device["name"],
        uuid=device["uuid"],
        on_cpu=device["type"] == "cpu",
        memory_bytes=device["memory_bytes"],
        available_bytes=device["available_bytes"],
        max_allocation=device["max_allocation"],
        integrated=device["type"] == "integrated",
        driver=device["driver"],
    )
