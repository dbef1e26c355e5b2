"""Finds the processor cores near a card, where Linux's /sys says which they are.

A machine with several sockets has its cards on the buses of different ones. What a rank reads and writes for
its card, such as partial sums, goes between sockets twice where it runs on the wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SYS = Path("/sys")
PCI_ADDRESS = re.compile("[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\\.[0-7]")
MAX_TEXT, MAX_CORES = 1 << 16, 1 << 16


@dataclass(frozen=True)
class Nearby:
    """The cores near a card, and the memory node that has both; no cores and None for what is not known."""

    cores: frozenset[int] = frozenset()
    node: int | None = None


def nearby(pci_address: str, root: Path = SYS) -> Nearby:
    """Returns what is near the card at this address, as a driver gave it; empty for one that gave none.

    See https://docs.kernel.org/admin-guide/abi-testing.html (sysfs-bus-pci) for the files: a numa_node of
    -1 says that there is none, or that the firmware does not tell.
    """
    if not PCI_ADDRESS.fullmatch(pci_address):
        return Nearby()
    folder = root / "bus/pci/devices" / pci_address
    cores, text = core_list(read_text(folder / "local_cpulist")), read_text(folder / "numa_node").strip()
    node = int(text) if re.fullmatch("[0-9]{1,6}", text) else None
    if not cores and node is not None:
        cores = core_list(read_text(root / f"devices/system/node/node{node}/cpulist"))
    return Nearby(cores, node)


def core_list(text: str) -> frozenset[int]:
    """Reads a list of cores such as 0-3,8,10-11; empty for a text that is none."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch("([0-9]{1,6})(?:-([0-9]{1,6}))?", part)
        if match is None:
            return frozenset()
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < MAX_CORES:
            return frozenset()
        cores.update(range(first, last + 1))
    return frozenset(cores)


def core_text(cores: Sequence[int]) -> str:
    """Writes ascending cores as such a list."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def read_text(path: Path) -> str:
    """Returns a small file's text, empty for what is missing or can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_TEXT).decode("ascii", "replace")
    except OSError:
        return ""
