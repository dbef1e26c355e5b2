"""The memory and CPU time that this process may take, as far as a container or a limit leaves them.

The files are those of https://docs.kernel.org/admin-guide/cgroup-v2.html, and of version 1, which older
systems and those with both still have. A group's limits hold for all groups below it: every level is asked.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tplaunch.worker.folders import user_folder

ROOT = Path("/")
MAX_DEPTH = 64  # of groups in groups
UNLIMITED = 1 << 60  # version 1 says so with a number that is near 2**63
RECLAIMED = (
    "active_file",
    "inactive_file",
    "slab_reclaimable",
)  # pages that the kernel drops when it needs them


@dataclass(frozen=True)
class HostMemory:
    """Bytes. limited_by says what leaves less than the machine has; nothing where nothing does."""

    total: int
    available: int
    limited_by: str = ""


@dataclass(frozen=True)
class Group:
    """A group's memory and CPU time; None for what is not limited or not known."""

    max_bytes: int | None
    available_bytes: int | None
    cpus: float | None


def host_memory(num_ranks: int, root: Path = ROOT) -> HostMemory:
    """Returns the memory of this machine that its ranks may use, all together."""
    memory = _machine_memory()
    for group in _groups(root):
        if group.max_bytes is not None and group.max_bytes < memory.total:
            available = min(memory.available, group.available_bytes or 0)
            memory = HostMemory(group.max_bytes, available, "this container's memory limit")
        elif group.available_bytes is not None:
            memory = HostMemory(memory.total, min(memory.available, group.available_bytes), memory.limited_by)
    each = _process_limit()
    if each is not None and each * num_ranks < memory.total:
        total = each * num_ranks
        memory = HostMemory(
            total, min(memory.available, total), "the limit on a process's memory (ulimit -v)"
        )
    return memory


def num_threads(num_cores: int, num_ranks: int, root: Path = ROOT) -> int:
    """Counts the threads of a rank that can run at once on its cores, with its part of the CPU time."""
    quotas = [group.cpus for group in _groups(root) if group.cpus is not None]
    share = min(quotas, default=float(num_cores * num_ranks)) / num_ranks
    return max(1, min(num_cores, int(share)))


def free_cache_bytes() -> int | None:
    """Returns the free bytes of the disk that drivers keep caches on, for this user; None where not known."""
    folder = user_folder("XDG_CACHE_HOME", ".cache")
    while folder is not None:
        try:
            found = os.statvfs(folder)
            return found.f_bavail * found.f_frsize
        except FileNotFoundError:
            folder = folder.parent if folder != folder.parent else None
        except OSError:
            break
    return None


def _machine_memory() -> HostMemory:
    try:
        memory = psutil.virtual_memory()
        return HostMemory(memory.total, memory.available)
    except OSError:  # no /proc; the C library asks the kernel
        page = os.sysconf("SC_PAGE_SIZE")
        return HostMemory(os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page)


def _process_limit() -> int | None:
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=None)


def _groups(root: Path) -> Iterator[Group]:
    """The groups of this process in every hierarchy, from its own to the topmost that can be seen."""
    own = _own_groups(_read(root / "proc/self/cgroup"))
    for mount in _mounts(_read(root / "proc/self/mountinfo")):
        read = _read_version_2 if mount.version == 2 else _read_version_1
        for controller in mount.controllers.intersection(own):
            for folder in _levels(root, mount, own[controller]):
                yield read(folder)


@dataclass(frozen=True)
class _Mount:
    """A hierarchy of groups. root: the group that is seen at `point`, named as in /proc/self/cgroup."""

    version: int
    controllers: frozenset[str]
    root: str
    point: str


def _own_groups(text: str) -> dict[str, str]:
    """/proc/self/cgroup: the group by controller; that of version 2 by the empty name."""
    parts = [line.split(":", 2) for line in text.splitlines()]
    return {name: part[2] for part in parts if len(part) == 3 for name in part[1].split(",")}


def _mounts(text: str) -> Iterator[_Mount]:
    """/proc/self/mountinfo (proc_pid_mountinfo(5)): the hierarchies that can limit memory or CPU time."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(kind) < 3 or not kind[0].startswith("cgroup"):
            continue
        root, point = map(_unescaped, fields[3:5])
        if kind[0] == "cgroup2":
            yield _Mount(2, frozenset({""}), root, point)
        elif kind[0] == "cgroup" and (controllers := {"memory", "cpu"} & set(kind[2].split(","))):
            yield _Mount(1, frozenset(controllers), root, point)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _levels(root: Path, mount: _Mount, group: str) -> Iterator[Path]:
    """The folders of a group and of those above it. What can't be seen from here is left out."""
    point = root / mount.point.lstrip("/")
    below = Path(os.path.relpath(group, mount.root)) if mount.root.startswith("/") else Path()
    folder = point if ".." in below.parts else point / below
    if not folder.is_dir():  # the path is one outside this container
        folder = point
    for _ in range(MAX_DEPTH):
        yield folder
        if folder == point:
            break
        folder = folder.parent


def _read_version_2(folder: Path) -> Group:
    limits = [_number(_read(folder / name)) for name in ("memory.max", "memory.high")]
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    used = _number(_read(folder / "memory.current"))
    return _group(limits, used, _statistics(folder, ""), _number(quota), _number(period))


def _read_version_1(folder: Path) -> Group:
    limit = _number(_read(folder / "memory.limit_in_bytes"))
    used = _number(_read(folder / "memory.usage_in_bytes"))
    quota, period = (_number(_read(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    return _group([limit], used, _statistics(folder, "total_"), quota, period)


def _group(
    limits: list[int | None], used: int | None, reclaimed: int, quota: int | None, period: int | None
) -> Group:
    max_bytes = min(filter(None, limits), default=None)  # 0 is written to have memory given back, not to stay
    available = None if max_bytes is None else max(0, min(max_bytes, max_bytes - (used or 0) + reclaimed))
    return Group(max_bytes, available, quota / period if quota and period else None)


def _statistics(folder: Path, prefix: str) -> int:
    """Bytes that are used, but given back when they are needed."""
    rows = (line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
    found = {name: _number(value) or 0 for name, value in rows}
    return sum(found.get(prefix + name, 0) for name in RECLAIMED)


def _number(text: str) -> int | None:
    """Returns a limit's number; None for "max", -1, and a text that is no number."""
    text = text.strip()
    if not re.fullmatch("[0-9]{1,20}", text) or int(text) >= UNLIMITED:
        return None
    return int(text)


def _read(path: Path) -> str:
    """Empty for what is missing or can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(1 << 20).decode("utf-8", "surrogateescape")
    except (OSError, ValueError):
        return ""
