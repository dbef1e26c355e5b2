"""Tells whether kernels can be compiled for this processor, without importing what compiles them."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
MAX_TEXT = 1 << 16  # of it: the first processor's lines are what is looked for
PACKAGES = ("numba", "llvmlite")
# What a kernel's instructions need, as /proc/cpuinfo words it. Without fma and f16c LLVM would call functions
# of the C library for them, which takes as long as NumPy, or of a library that may not be there.
NEEDED = {"x86_64": ("avx2", "f16c", "fma"), "aarch64": ()}


@cache
def unusable() -> str:
    """Says why there can be no compiled kernels here; empty where there can."""
    return why_not(platform.machine(), cpu_flags(), missing_packages())


def why_not(machine: str, flags: frozenset[str], missing: Iterable[str]) -> str:
    """Says the same of a machine by its name, its processor's flags, and packages that are not there.

    No flags are those that are not known: nothing is said of them.
    """
    if machine not in NEEDED:
        return f"there are none for {machine} processors"
    if absent := [flag for flag in NEEDED[machine] if flags and flag not in flags]:
        return f"the processor lacks {' and '.join(absent)}"
    if packages := " and ".join(missing):
        return f"{packages} can't be found"
    return ""


def cpu_flags(path: Path = CPUINFO) -> frozenset[str]:
    """Returns the flags of the first processor; none where there are no such flags."""
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_TEXT).decode("ascii", "replace").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(found, "").split())


def missing_packages() -> list[str]:
    """Returns which of Numba's packages are not installed."""
    return [package for package in PACKAGES if importlib.util.find_spec(package) is None]
