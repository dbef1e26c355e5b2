"""Tests the limits of containers on a machine, read from sample trees of /proc and /sys."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models import examples
from tplaunch.launcher import machine
from tplaunch.launcher.devices import DeviceChoice
from tplaunch.launcher.fitting.memory_places import HOST, memory_places
from tplaunch.launcher.machine import HostMemory, free_cache_bytes, host_memory, num_threads
from tplaunch.launcher.supervisor import MIN_CACHE_BYTES, driver_settings

GIB = 1 << 30
TOTAL, AVAILABLE = 64 * GIB, 48 * GIB
CONTAINER = "this container's memory limit"
V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n"
)
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
V1_GROUPS = "9:devices:/\n4:memory:/docker/a1\n2:cpu,cpuacct:/docker/a1\n0::/\n"
NO_LIMIT = "9223372036854771712\n"


@pytest.fixture(autouse=True)
def machine_of_known_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_machine_memory", lambda: HostMemory(TOTAL, AVAILABLE))
    monkeypatch.setattr(machine, "_process_limit", lambda: None)


def tree(root: Path, groups: str, mounts: str, files: Mapping[str, str]) -> Path:
    """files: by their path below /sys/fs/cgroup."""
    written = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    for path, text in {**written, **{f"sys/fs/cgroup/{path}": text for path, text in files.items()}}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_without_groups_there_is_the_whole_machine(tmp_path: Path) -> None:
    assert host_memory(2, tmp_path) == HostMemory(TOTAL, AVAILABLE)
    assert num_threads(6, 2, tmp_path) == 6


def test_version_2(tmp_path: Path) -> None:
    """Pages of files, such as a model that was read before, are no memory that is gone."""
    files = {
        "memory.max": f"{8 * GIB}\n",
        "memory.high": "max\n",
        "memory.current": f"{5 * GIB}\n",
        "memory.stat": f"anon {GIB}\nfile {4 * GIB}\nactive_file {GIB}\ninactive_file {2 * GIB}\n",
        "cpu.max": "250000 100000\n",
    }
    root = tree(tmp_path, "0::/\n", V2, files)
    assert host_memory(2, root) == HostMemory(8 * GIB, 6 * GIB, CONTAINER)
    assert [num_threads(8, ranks, root) for ranks in (1, 2, 3)] == [2, 1, 1]
    assert num_threads(1, 1, root) == 1


def test_the_limit_of_any_group_above_counts(tmp_path: Path) -> None:
    files = {
        "user.slice/memory.max": f"{16 * GIB}\n",
        "user.slice/memory.high": f"{12 * GIB}\n",
        "user.slice/memory.current": f"{11 * GIB}\n",
        "user.slice/cpu.max": "150000 100000",
        "user.slice/app.scope/memory.max": "max\n",
        "user.slice/app.scope/memory.current": "4096\n",
        "user.slice/app.scope/cpu.max": "max 100000",
        "other.slice/memory.max": "4096\n",
    }
    root = tree(tmp_path, "0::/user.slice/app.scope\n", V2, files)
    assert host_memory(1, root) == HostMemory(12 * GIB, GIB, CONTAINER)
    assert num_threads(8, 1, root) == 1


def test_a_limit_above_the_machines_memory_still_says_what_is_left(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", V2, {"memory.max": f"{128 * GIB}", "memory.current": f"{120 * GIB}"})
    assert host_memory(1, root) == HostMemory(TOTAL, 8 * GIB)


@pytest.mark.parametrize("mounts", [V1, HYBRID])
def test_version_1_and_both(tmp_path: Path, mounts: str) -> None:
    files = {
        "memory/memory.limit_in_bytes": NO_LIMIT,
        "memory/docker/memory.limit_in_bytes": NO_LIMIT,
        "memory/docker/a1/memory.limit_in_bytes": f"{4 * GIB}\n",
        "memory/docker/a1/memory.usage_in_bytes": f"{3 * GIB}\n",
        "memory/docker/a1/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}\ntotal_active_file 0\n",
        "cpu,cpuacct/docker/cpu.cfs_quota_us": "400000\n",
        "cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/docker/a1/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/docker/a1/cpu.cfs_period_us": "100000\n",
    }
    root = tree(tmp_path, V1_GROUPS, mounts, files)
    assert host_memory(2, root) == HostMemory(4 * GIB, 2 * GIB, CONTAINER)
    assert num_threads(8, 1, root) == 4


@pytest.mark.parametrize(
    ("mount_root", "group"),
    [("/docker/a1", "/docker/a1"), ("/docker/a1", "/docker/a1/inner"), ("/", "/outside/this/container"),
     ("/../../x", "/"), ("/", "/../../x")],
)  # fmt: skip
def test_a_container_sees_its_own_group_at_the_mount(tmp_path: Path, mount_root: str, group: str) -> None:
    mounts = f"40 31 0:32 {mount_root} /sys/fs/cgroup\\040x ro - cgroup2 cgroup rw\n"
    root = tree(tmp_path, f"0::{group}\n", mounts, {"../cgroup x/memory.max": f"{4 * GIB}"})
    assert host_memory(1, root) == HostMemory(4 * GIB, 4 * GIB, CONTAINER)


@pytest.mark.parametrize("text", ["max", "-1", "", "many", "1e9", NO_LIMIT, "\udcff", "9" * 50, "0"])
def test_what_is_no_limit(tmp_path: Path, text: str) -> None:
    root = tree(tmp_path, "0::/\n", V2, {})
    for name in ("memory.max", "memory.high", "cpu.max"):
        (root / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_bytes(f"{text} {text}".encode("utf-8", "surrogateescape"))
    assert host_memory(1, root) == HostMemory(TOTAL, AVAILABLE)
    assert num_threads(8, 1, root) == 8


def test_files_that_cant_be_read_say_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/\n", V2, {"cpu.max/a folder": ""})
    (root / "sys/fs/cgroup/memory.max").symlink_to("memory.max")
    assert host_memory(1, root) == HostMemory(TOTAL, AVAILABLE)


@given(st.text(alphabet="0123456789:/-\n cgroupv2memory,.\\", max_size=200), st.text(max_size=200))
@examples(100)
def test_no_text_in_those_files_is_an_error(groups: str, mounts: str) -> None:
    list(machine._mounts(mounts))
    list(machine._mounts(groups + " - cgroup2 a b " + mounts))
    machine._own_groups(groups)


def test_a_limit_on_the_process_is_that_of_every_rank(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    limits = {resource.RLIMIT_AS: GIB, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], resource.RLIM_INFINITY))
    monkeypatch.setattr(machine, "_machine_memory", lambda: HostMemory(TOTAL, AVAILABLE))
    assert host_memory(2, tmp_path) == HostMemory(
        2 * GIB, 2 * GIB, "the limit on a process's memory (ulimit -v)"
    )


def test_without_proc_the_c_library_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    total = psutil.virtual_memory().total

    def no_proc() -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", no_proc)
    found = host_memory(1, tmp_path)
    assert 0.9 * total < found.total < 1.1 * total and 0 < found.available <= found.total


def test_drivers_keep_no_kernels_on_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "there" / "yet"))
    free = free_cache_bytes()
    assert free is not None and abs(free - shutil.disk_usage(tmp_path).free) < GIB
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "x"))
    assert free_cache_bytes() is None
    card, on_cpu = DeviceChoice(0, "card", on_cpu=False), DeviceChoice(1, "llvmpipe")
    for free, disabled in ((None, None), (1 << 40, None), (MIN_CACHE_BYTES - 1, "true"), (0, "true")):
        monkeypatch.setattr("tplaunch.launcher.supervisor.free_cache_bytes", lambda free=free: free)
        assert driver_settings(card, 2, 1).get("MESA_SHADER_CACHE_DISABLE") == disabled
        assert [driver_settings(choice, 2, 1)["OMP_NUM_THREADS"] for choice in (card, on_cpu)] == ["2", "1"]


def test_ranks_in_a_container_share_what_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    found = HostMemory(4 * GIB, 2 * GIB, CONTAINER)
    monkeypatch.setattr("tplaunch.launcher.fitting.memory_places.host_memory", lambda _ranks: found)
    (place,) = memory_places([DeviceChoice(None, "cpu")] * 2, {})
    assert (place.name, place.capacity, place.usable) == (CONTAINER, 4 * GIB, int(1.5 * GIB))
    assert place.name != HOST
