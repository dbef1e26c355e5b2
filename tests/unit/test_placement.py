"""Memory that is not where a rank's cores are is found in what the kernel tells, and said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tplaunch.worker.cpu.placement import NUMA_MAPS, anonymous_bytes, common_node, misplaced, misplacement

TEXT = """\
55d0c0a00000 default file=/usr/bin/python3.11 mapped=512 N1=512 kernelpagesize_kB=4
55d0c1a00000 default heap anon=300 dirty=300 N0=200 N1=100 kernelpagesize_kB=4
7f1000000000 bind:0 anon=3 dirty=3 active=0 N0=3 kernelpagesize_kB=2048
7f2000000000 default file=/lib/libc.so anon=5 dirty=5 N1=5 kernelpagesize_kB=4
7f3000000000 default
"""


def cores(root: Path, *nodes: int | None) -> Path:
    for core, node in enumerate(nodes):
        (root / f"cpu{core}" / ("topology" if node is None else f"node{node}")).mkdir(parents=True)
    return root


def test_bytes_are_added_up_by_node() -> None:
    assert anonymous_bytes(TEXT) == {0: 200 * 4096 + 3 * 2048 * 1024, 1: 100 * 4096}
    assert anonymous_bytes("") == {}


def test_cores_have_a_node_in_common(tmp_path: Path) -> None:
    root = cores(tmp_path, 0, 0, 1, None)
    assert [common_node(held, root) for held in ({0, 1}, {2}, {0, 2}, {3})] == [0, 1, None, None]


def test_memory_elsewhere_is_told() -> None:
    assert misplacement({0: 96, 1: 4}, 0) == misplacement({}, 0) == ""
    assert "75% of a rank's memory are not on memory node 1" in misplacement({0: 75, 1: 25}, 1)


def test_a_rank_on_two_nodes_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numa_maps").write_text(TEXT)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    assert "are not on memory node 1" in misplaced(tmp_path / "numa_maps", cores(tmp_path / "one", 1, 1))
    assert misplaced(tmp_path / "numa_maps", cores(tmp_path / "two", 0, 1)) == ""
    assert misplaced(tmp_path / "absent", cores(tmp_path / "three", 1, 1)) == ""


ONE_CORE = """
import os, sys
import numpy as np
from tplaunch.worker.cpu.placement import NUMA_MAPS, anonymous_bytes
os.sched_setaffinity(0, {int(sys.argv[1])})
node = int(sys.argv[2])
known = anonymous_bytes(NUMA_MAPS.read_text())
memory = np.ones(64 << 20, np.uint8)
print(anonymous_bytes(NUMA_MAPS.read_text()).get(node, 0) - known.get(node, 0))
"""


@pytest.mark.skipif(not NUMA_MAPS.exists(), reason="this kernel does not tell where memory lies")
def test_what_a_thread_writes_first_lies_on_its_node() -> None:
    """In a process of its own, which frees nothing meanwhile."""
    core = min(os.sched_getaffinity(0))
    node = common_node({core})
    if node is None:
        pytest.skip("this machine has no memory nodes")
    command = [sys.executable, "-c", ONE_CORE, str(core), str(node)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) >= 0.95 * (64 << 20)
