"""Finds the memory nodes of this machine and the cores of each, where Linux's /sys says which they are.

Cores read the memory of their own node faster than another's (NUMA). Machines with one socket have one node,
as a rule. https://docs.kernel.org/admin-guide/abi-stable.html (sysfs-devices-node) has the files.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tplaunch.launcher.near_cores import SYS, core_list, read_text

AVAILABLE = ("MemFree", "Active(file)", "Inactive(file)")  # lines of a node's meminfo


@dataclass(frozen=True)
class MemoryNode:
    """A memory node, and those of its cores that this process may use. Bytes are 0 where not known.

    available_bytes: free, or with pages of files that can be read again.
    """

    number: int
    cores: frozenset[int]
    memory_bytes: int = 0
    available_bytes: int = 0


def memory_nodes(root: Path = SYS) -> list[MemoryNode]:
    """Returns the nodes by their numbers; those without a core that this process may use are left out.

    Where /sys does not tell, all cores are of the node 0. Linux only.
    """
    usable = frozenset(os.sched_getaffinity(0))
    found = []
    folder = root / "devices/system/node"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for number in sorted(int(name[4:]) for name in names if re.fullmatch("node[0-9]{1,6}", name)):
        cores = core_list(read_text(folder / f"node{number}/cpulist")) & usable
        if cores:
            text = read_text(folder / f"node{number}/meminfo")
            available = sum(_bytes(text, name) for name in AVAILABLE)
            found.append(MemoryNode(number, cores, _bytes(text, "MemTotal"), available))
    return found or [MemoryNode(0, usable)]


def one_of_each_core(cores: frozenset[int], root: Path = SYS) -> frozenset[int]:
    """Leaves out what shares a core's units with another of these: a second thread there brings nothing.

    cores: as the system counts them, of which those that run at once on one core are siblings. All stay
    where /sys does not tell.
    """
    kept: set[int] = set()
    for core in sorted(cores):
        path = root / f"devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        if not core_list(read_text(path)) & kept:
            kept.add(core)
    return frozenset(kept)


def _bytes(meminfo: str, name: str) -> int:
    """Reads a line such as `Node 0 MemTotal:  8000 kB`."""
    match = re.search(rf"\b{re.escape(name)}:\s+([0-9]{{1,15}}) kB", meminfo)
    return 1024 * int(match[1]) if match else 0
