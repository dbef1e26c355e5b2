"""Reads the words of --devices that mean processors, and not devices of a driver.

numpy     computes by NumPy: the reference for all kernels
cpu       computes by compiled kernels, on all cores that there are for it
cpus      the same with a rank on each memory node
cpu:1     on the cores of the memory node 1
cpu:4-7   on these cores; cpu:0-3+8-11 on these. A number alone is a node
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tplaunch.coordinator.split.plan import MAX_GROUP
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.memory_nodes import memory_nodes
from tplaunch.launcher.near_cores import SYS, core_list, core_text
from tplaunch.worker.cpu.usable import unusable

CPU, CPUS, NUMPY = "cpu", "cpus", "numpy"


@dataclass(frozen=True)
class Processors:
    """Cores for one rank, as --devices names them; no cores are those that are left for it."""

    word: str
    cores: frozenset[int] = frozenset()


def means_processors(part: str) -> bool:
    """Tells whether a part of --devices, in small letters, is one of the words of this module."""
    return part in (CPU, CPUS, NUMPY) or part.startswith(f"{CPU}:")


def processors(part: str, root: Path = SYS) -> list[Processors]:
    """Returns what a word means here, one for each rank. Raises UsageError."""
    if part in (CPU, NUMPY):
        return [Processors(part)]
    nodes = memory_nodes(root)
    if part == CPUS:
        return [Processors(f"{CPU}:{node.number}", node.cores) for node in nodes][:MAX_GROUP]
    named = part.partition(":")[2]
    if named.isascii() and named.isdecimal():
        for node in nodes:
            if node.number == int(named):
                return [Processors(part, node.cores)]
        numbers = ", ".join(str(node.number) for node in nodes)
        raise UsageError(
            f"--devices {part:.80}: there is no memory node {named:.20} with cores for this process, only"
            f" {numbers} (cores are named by a first and a last one, such as cpu:{named:.20}-{named:.20})"
        )
    return [Processors(part, _named_cores(part, named))]


def _named_cores(part: str, named: str) -> frozenset[int]:
    cores, usable = core_list(named.replace("+", ",")), frozenset(os.sched_getaffinity(0))
    if not cores:
        raise UsageError(
            f"--devices {part:.80}: a memory node or cores are needed, such as cpu:0, cpu:0-3 or cpu:0-3+8-11"
        )
    if absent := cores - usable:
        raise UsageError(
            f"--devices {part:.80}: this process may not use {core_text(sorted(absent)):.80}; it may use"
            f" {core_text(sorted(usable)):.80}"
        )
    return cores


def processor_remarks(parts: Sequence[str], taken: Sequence[str], root: Path = SYS) -> list[str]:
    """Returns sentences about processors that a person would not expect.

    parts: of --devices. taken: the words of the processors that were taken for them.
    """
    found = []
    if taken.count(NUMPY) > parts.count(NUMPY):
        found.append(f"NumPy computes here in place of compiled kernels, and is slower: {unusable()}")
    if list(taken) == [CPU] == list(parts) and (count := len(memory_nodes(root))) > 1:
        found.append(
            f"this machine has {count} memory nodes; --devices {CPUS} has a rank on each, which reads the"
            " memory of its own node, and is faster as a rule"
        )
    return found
