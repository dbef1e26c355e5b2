"""Finds out whether a rank's memory lies on the memory node of its cores, as it does unless that is full.

A page lies on the node of the core that first writes it, and all threads of a rank on a node stay there.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

NUMA_MAPS, CORES = Path("/proc/self/numa_maps"), Path("/sys/devices/system/cpu")
MOST_ELSEWHERE = 0.05  # of the bytes: libraries are wherever another process has read them first


def misplaced(numa_maps: Path = NUMA_MAPS, cores: Path = CORES) -> str:
    """Says that memory lies elsewhere; empty where it does not, or where the kernel does not tell."""
    node = common_node(os.sched_getaffinity(0), cores)
    if node is None:
        return ""
    try:
        return misplacement(anonymous_bytes(numa_maps.read_text()), node)
    except OSError:
        return ""


def misplacement(found: Mapping[int, int], node: int) -> str:
    """Says so of bytes by node."""
    total = sum(found.values())
    elsewhere = total - found.get(node, 0)
    if elsewhere <= MOST_ELSEWHERE * total:
        return ""
    return (
        f"{elsewhere / total:.0%} of a rank's memory are not on memory node {node}, whose cores compute, and"
        " are read more slowly: the node had no room; name more nodes, or give this one less"
    )


def common_node(cores: Collection[int], root: Path = CORES) -> int | None:
    """Returns the node that all of these cores belong to; None where there is none."""
    found = {int(path.name[4:]) for core in cores for path in root.glob(f"cpu{core}/node[0-9]*")}
    return found.pop() if len(found) == 1 else None


def anonymous_bytes(text: str) -> dict[int, int]:
    """Adds up the bytes by node that are no file's, of a text such as /proc/self/numa_maps (proc(5))."""
    found: Counter[int] = Counter()
    for line in text.splitlines():
        size = re.search(r" kernelpagesize_kB=([0-9]+)", line)
        if " anon=" not in line or " file=" in line or size is None:
            continue
        for node, pages in re.findall(r" N([0-9]+)=([0-9]+)", line):
            found[int(node)] += int(pages) * int(size[1]) * 1024
    return dict(found)
