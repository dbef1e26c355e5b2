"""Finds the devices there are, and selects those that the user means.

Listing happens in a process of its own: a driver that crashes or hangs while it starts takes that process
along, not the launcher.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tplaunch.launcher.device_choice import NONE, TOO_MANY, left_out, preferred
from tplaunch.launcher.driver_packages import unlisted_cards
from tplaunch.launcher.endings import ending
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.job_process import run_job
from tplaunch.launcher.lines import say
from tplaunch.launcher.near_cores import nearby
from tplaunch.launcher.processors import CPU, CPUS, NUMPY, means_processors, processor_remarks, processors
from tplaunch.launcher.worker_command import job_words
from tplaunch.worker.cpu.usable import unusable

LIST_TIMEOUT_SECONDS = 60
BROKEN_DRIVER = "VK_DRIVER_FILES, set to the JSON files of those that work, leaves out a driver that does not"
# What of a device --activations asks for, by the names of worker.vulkan.listing.PhysicalDevice.
ACTIVATION_NEEDS = {"f16": "matrices", "q8": "integer_dot_product"}


@dataclass(frozen=True)
class DeviceChoice:
    """One rank's device. index is None for processors without a driver, of which the name is the word."""

    index: int | None
    name: str
    uuid: str = ""
    on_cpu: bool = True  # its work is done by this machine's cores: a CPU driver, compiled kernels, or NumPy
    memory_bytes: int = 0  # of a device with memory of its own
    available_bytes: int = 0  # of these, now; 0 where the driver does not say
    max_allocation: int = 0  # bytes of one buffer; 0 where that is not known
    integrated: bool = False  # its memory is the machine's
    lacks: frozenset[str] = frozenset()  # of the activations, those that it can't multiply by
    imports_memory: bool = False  # its driver imports the host's memory, as it says
    kind: str = ""  # with its driver: devices of one kind are equal
    driver: str = ""  # name and version, as it words them
    driver_version: int = 0  # as its maker counts
    features: frozenset[str] = frozenset()  # that kernels may need; none of a device that is not here
    near_cores: frozenset[int] = frozenset()  # of this machine, on the card's socket; none where not known
    own_cores: frozenset[int] = frozenset()  # of this machine, that the rank is to compute on; none for any
    host: int = 0  # the machine that has it; 0 is this one
    host_name: str = ""
    # Of another machine: its memory, the part that is free, both in bytes, and what limits it.
    host_memory: tuple[int, int, str] = (0, 0, "")
    # Bytes that --max-memory there allows of this device, and of the machine's memory; 0 for all.
    caps: tuple[int, int] = (0, 0)

    @property
    def title(self) -> str:
        """The device for people."""
        where = f" of {self.host_name}" if self.host else ""
        return (
            f"device {self.index}{where} ({self.name})" if self.index is not None else f"{self.name}{where}"
        )

    @property
    def word(self) -> str:
        """The device as --devices takes it."""
        return self.name if self.index is None else str(self.index)

    @property
    def in_numpy(self) -> bool:
        return self.index is None and self.name == NUMPY

    @property
    def has_threads(self) -> bool:
        """Tells whether it computes by compiled kernels, on as many cores as it gets."""
        return self.index is None and self.name != NUMPY

    @property
    def takes_one_core(self) -> bool:
        """Tells whether one of the cores does all its work, that of its process: a CPU's driver, or NumPy."""
        return self.on_cpu and not self.has_threads

    @property
    def is_in_host_memory(self) -> bool:
        return self.on_cpu or self.integrated

    @property
    def is_unknown(self) -> bool:
        """Tells if the device is only planned for: no driver has told about it."""
        return not self.on_cpu and not self.memory_bytes


@dataclass(frozen=True)
class DeviceList:
    """The devices that drivers report; `error` says why there are none."""

    devices: tuple[dict[str, Any], ...]  # worker.vulkan.listing.PhysicalDevice as plain data
    error: str
    closed: tuple[str, ...] = ()  # a sentence for each card that can't be opened
    missing: str = ""  # what the cards that no driver lists would need

    @property
    def reason(self) -> str:
        """Says why there is no device, and what to do about it."""
        why = [self.error] if self.error or self.closed else ["no Vulkan driver found a device"]
        return "; ".join(filter(None, (*why, *self.closed, self.missing)))


def list_devices() -> DeviceList:
    """Asks the Vulkan loader, in a child process, and looks for what it does not tell."""
    found = _ask_drivers()
    devices: tuple[dict[str, Any], ...] = tuple(found["devices"])
    if found.get("has_failed"):  # there are drivers, so that no other need be installed
        return DeviceList((), f"{found['error']}; {BROKEN_DRIVER}")
    closed, needed = unlisted_cards(devices, found.get("missing", ""))
    return DeviceList(devices, found["error"], closed, needed)


def _ask_drivers() -> dict[str, Any]:
    """Returns the devices, what went wrong, and what part of Vulkan is not installed: loader or driver."""
    try:
        result = run_job([*job_words(), "--list-devices"], LIST_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return _failed(f"the Vulkan drivers did not answer within {LIST_TIMEOUT_SECONDS} s")
    if result.returncode or not result.stdout:  # a driver may end its process as if all were well
        errors = result.stderr.decode(errors="replace")
        return _failed(f"listing the Vulkan devices {ending(result.returncode, errors)}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def _failed(error: str) -> dict[str, Any]:
    return {"devices": [], "error": error, "has_failed": True}


def planned_devices(text: str, *, pins: bool = True) -> tuple[list[DeviceChoice], str]:
    """One choice per rank for a plan, which may be for another machine.

    Devices that are not here are unknown; also returns why, or nothing.
    """
    parts = _parts(text)
    try:
        return select_devices(text, pins=pins), ""
    except UsageError as error:
        if "all" in parts:
            raise
        return [_planned(part) for part in parts], str(error)


def _planned(part: str) -> DeviceChoice:
    if means_processors(part):
        return DeviceChoice(None, CPU if part == CPUS else part)
    return DeviceChoice(int(part) if re.fullmatch("[0-9]{1,4}", part) else -1, part, on_cpu=False)


def select_devices(text: str, *, pins: bool = True) -> list[DeviceChoice]:
    """One choice per rank for a --devices value. Asks the drivers only where a Vulkan device is named.

    pins: ranks shall run near their cards. Says on standard error what a person would not expect of the
    choice.
    """
    choices, listed = _select(text)
    if not pins:
        choices = [replace(choice, near_cores=frozenset()) for choice in choices]
    parts = _parts(text)
    found = [] if listed is None else remarks(parts, listed, choices)
    taken = [choice.name for choice in choices if choice.index is None]
    for remark in (*found, *processor_remarks(parts, taken)):
        say(remark)
    return choices


def check_devices(text: str) -> int:
    """Counts the ranks that a --devices value gives, silently. Raises UsageError as select_devices does."""
    return len(_select(text)[0])


def _select(text: str) -> tuple[list[DeviceChoice], DeviceList | None]:
    """The choices, and the list that they are of, where one was needed."""
    parts = _parts(text)
    if parts == [NONE]:
        return [], None
    if all(map(means_processors, parts)):
        return [choice for part in parts for choice in _on_processors(part)], None
    listed = list_devices()
    return choose_devices(text, listed), listed


def remarks(parts: Sequence[str], listed: DeviceList, choices: Sequence[DeviceChoice]) -> list[str]:
    """Returns sentences about cards that take no part though the user may think that they do."""
    wants_all, on_cpu = "all" in parts, all(choice.on_cpu for choice in choices)
    if not wants_all and not any(choice.on_cpu and choice.index is not None for choice in choices):
        return []
    if wants_all and on_cpu and all(choice.index is None for choice in choices):
        taken = f"runs on {', '.join(choice.name for choice in choices)}"
        if not listed.devices:
            return [f"there is no Vulkan device ({listed.reason}); the model {taken}"]
        told = f"none of the Vulkan devices can be used, `tplaunch devices` says why; the model {taken}"
        return [told, *listed.closed]
    spare = [str(index) for index, reason in left_out(listed.devices).items() if reason == TOO_MANY]
    too_many = (
        [f"no part is taken by the devices {', '.join(spare)}: {TOO_MANY}"] if wants_all and spare else []
    )
    without_driver = [f"a card takes no part: {listed.missing}"] if on_cpu and listed.missing else []
    return [*listed.closed, *without_driver, *too_many]


def choose_devices(text: str, listed: DeviceList) -> list[DeviceChoice]:
    """The devices that `text` names: indices, names, `all` and words for processors, separated by commas."""
    chosen: list[DeviceChoice] = []
    for part in _parts(text):
        if means_processors(part):
            chosen += _on_processors(part)
        elif part == "all":
            chosen += _all(listed)
        elif not listed.devices:
            raise UsageError(
                f"--devices {text}: there is no Vulkan device ({listed.reason});"
                " --devices cpu runs without one"
            )
        else:
            chosen.append(_choice(_find(part, listed)))
    return chosen


def _all(listed: DeviceList) -> list[DeviceChoice]:
    """Takes all cards; without a card the CPU by a driver, and without a driver by compiled kernels."""
    reasons = left_out(listed.devices)
    taken = [_choice(device) for device in listed.devices if not reasons[device["index"]]]
    return taken or _on_processors(CPUS)


def _on_processors(part: str) -> list[DeviceChoice]:
    """Takes processors, for NumPy where there can be no compiled kernels."""
    name = NUMPY if unusable() else ""
    return [DeviceChoice(None, name or found.word, own_cores=found.cores) for found in processors(part)]


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(
            f"--devices {text!r}: device indices or names separated by commas are needed, such as 0,1"
        )
    return [
        part.lower() if part.lower() == "all" or means_processors(part.lower()) else part for part in parts
    ]


def _find(part: str, listed: DeviceList) -> dict[str, Any]:
    names = ", ".join(f"{device['index']} ({device['name']})" for device in listed.devices)
    if re.fullmatch("-?[0-9]+", part):
        matches = [device for device in listed.devices if str(device["index"]) == part]
    else:
        named = [device for device in listed.devices if part.lower() in device["name"].lower()]
        matches = [device for device in named if preferred(device, named) is device]
    if not matches:
        raise UsageError(
            "; ".join(
                (
                    f"there is no Vulkan device {part!r}; there are: {names}",
                    *listed.closed,
                    "and cpu, cpus, cpu:0, cpu:0-3 and numpy for the processor",
                )
            )
        )
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
        lacks=frozenset(kind for kind, feature in ACTIVATION_NEEDS.items() if not device[feature]),
        imports_memory=device["external_host_memory"],
        kind=device["kind"],
        driver=device["driver"],
        driver_version=device["driver_version"],
        features=frozenset(device["features"]),
        near_cores=frozenset() if device["type"] == "cpu" else nearby(device["pci_address"]).cores,
    )
