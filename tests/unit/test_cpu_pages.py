"""The weights of a processor's device lie in one piece, of which large pages are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.vulkan.cases import limits_for
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.cpu.code import Kernels
from tplaunch.worker.cpu.device import CpuDevice
from tplaunch.worker.cpu.memory import LINE, in_one_piece, lines
from tplaunch.worker.measuring.measurements import cache_folder

pytestmark = pytest.mark.unit
SMAPS = Path("/proc/self/smaps")


def flags_at(address: int) -> list[str]:
    """The kernel's flags of the mapping that an address is in (proc_pid_smaps(5))."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return rest.split()
    return []


@pytest.mark.parametrize("nbytes", [1, LINE, LINE + 1])
def test_memory_begins_with_a_line(nbytes: int) -> None:
    for _ in range(3):
        found = lines(nbytes)
        assert found.nbytes == nbytes and found.ctypes.data % LINE == 0 and not found.any()


def test_pieces_are_apart_and_begin_with_lines() -> None:
    sizes = {"a": 1, "b": LINE, "nothing": 0, "c": 3 * LINE + 5}
    found = in_one_piece(sizes)
    assert {name: buffer.nbytes for name, buffer in found.items()} == sizes
    for value, buffer in enumerate(found.values(), 1):
        assert buffer.ctypes.data % LINE == 0
        buffer[:] = value
    assert [set(buffer.tolist()) for buffer in found.values()] == [{1}, {2}, set(), {4}]
    assert in_one_piece({}) == {}


@pytest.mark.skipif(not SMAPS.exists(), reason="this kernel tells nothing of mappings")
def test_small_matrices_lie_in_large_pages() -> None:
    """A matrix of 1 MiB has no such page to itself, and most of smaller models are no larger."""
    device = CpuDevice(limits_for(), Kernels(cache_folder()))
    names = [f"matrix {index}" for index in range(8)]
    device.create_buffers(
        {name: Buffer(1 << 20, Placement.WEIGHTS) for name in names} | {"hidden": Buffer(1 << 12)}
    )
    addresses = [int(device.view(name).ctypes.data) for name in names]
    assert set(np.diff(addresses).tolist()) == {1 << 20}
    for address in addresses:
        assert (
            "hg" in flags_at(address + (1 << 19)) or not Path("/sys/kernel/mm/transparent_hugepage").exists()
        )
    device.close()
