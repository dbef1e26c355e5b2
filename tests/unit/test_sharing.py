"""How ranks agree on ways to share the arena, with devices that fail in known ways; and dma-bufs."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.models import LIMITS
from tests.unit.collectives_group import KINDS, connected, on_ranks
from tplaunch.collectives import Collective
from tplaunch.collectives.arena import Backing, private_arena
from tplaunch.launcher.commands.bench_report import sharing_text
from tplaunch.worker.device import COPY, DMA_BUF, IMPORT, OWN_SHARINGS, SHARINGS, DeviceError, SharingDevice
from tplaunch.worker.dma_buf import CREATE, REQUEST, DmaBufError, dma_buf_of
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.step.sharing import share_sums


class FakeSharing(NumpyDevice):
    """A device that shares in several ways, of which those that `lose` keep what it writes to themselves, and
    those that are `blind` show it nothing of its peers."""

    has_own_memory = False

    def __init__(self, lose: Sequence[str] = (), blind: Sequence[str] = ()) -> None:
        super().__init__(LIMITS)
        self._lose, self._blind = lose, blind
        self._ways = list(OWN_SHARINGS)

    @property
    def sharing(self) -> str:  # type: ignore[override]
        return self._ways[0]

    def back_partials(self, backing: Backing) -> None:
        pass

    def share_otherwise(self) -> bool:
        if len(self._ways) == 1:
            return False
        del self._ways[0]
        return True

    def put_partials(self, values: npt.NDArray[np.float32]) -> None:
        if self.sharing not in self._lose:
            self._state.partials[0, self._state.write_slot, : values.size] = values

    def seen_partials(self, count: int) -> npt.NDArray[np.float32]:
        seen = self._state.partials[0, : self._state.num_partials, :count].copy()
        if self.sharing in self._blind:
            seen[np.arange(len(seen)) != self._state.write_slot] = 0
        return seen


def shared(devices: Sequence[Any], kind: str = "shared-memory") -> list[Any]:
    """How each device shares in the end, or the error that its rank raises."""

    def share(collective: Collective) -> Any:
        device = devices[collective.rank]
        device.attach_partials(collective.arena, collective.write_slot, collective.num_partials)
        runner = SegmentRunner(device, collective)
        try:
            share_sums(runner)
        except DeviceError as error:
            return str(error)
        assert runner.told([float(collective.rank)])[:, 0].tolist() == list(range(len(devices)))
        return device.sharing

    with connected(kind, len(devices), slot_bytes=4096) as collectives:
        return on_ranks(collectives, share)


@pytest.mark.parametrize("kind", KINDS)
def test_ways_that_work_are_kept(kind: str) -> None:
    assert isinstance(FakeSharing(), SharingDevice) and not isinstance(NumpyDevice(LIMITS), SharingDevice)
    assert shared([FakeSharing(), NumpyDevice(LIMITS), FakeSharing(), FakeSharing()], kind) == [IMPORT] * 4


@pytest.mark.parametrize("fault", ["lose", "blind"])
def test_only_the_device_at_fault_goes_on_to_its_next_way(fault: str) -> None:
    assert shared([FakeSharing(), FakeSharing(**{fault: [IMPORT]})]) == [IMPORT, DMA_BUF]
    faulty = FakeSharing(**{fault: [IMPORT, DMA_BUF]})
    assert shared([faulty, FakeSharing(), FakeSharing()]) == [COPY, IMPORT, IMPORT]
    # What a rank told after the first trial is still there where its device writes nothing in the second.
    faulty = FakeSharing(**{fault: [IMPORT, DMA_BUF]})
    assert shared([FakeSharing(), faulty, FakeSharing()]) == [IMPORT, COPY, IMPORT]


def test_every_rank_names_the_one_that_has_no_way() -> None:
    (fault,) = set(shared([FakeSharing(), FakeSharing(lose=SHARINGS)]))
    assert fault.startswith(
        "partial sums do not come through from or to the device of rank 1; --collective zmq"
    )


def test_one_rank_has_nobody_to_share_with() -> None:
    assert shared([FakeSharing(lose=SHARINGS)]) == [IMPORT]


def test_people_are_told_by_what_sums_are_shared() -> None:
    assert sharing_text([IMPORT, COPY, IMPORT]) == (
        "partial sums are shared by imported host memory (ranks 0, 2), copies that the host makes (rank 1)"
    )


def test_all_ranks_of_a_host_have_the_file_behind_their_arena() -> None:
    with connected("shared-memory", 2, slot_bytes=4096) as collectives:
        for number, collective in enumerate(collectives):
            backing, words = collective.backing, collective.words
            assert backing is not None and words is not None
            mark = np.frombuffer(os.pread(backing.descriptor, 4, backing.offset(words)), np.uint8)
            assert not mark.any()
            collective.arena[1, 1, :4] = number + 7
            read = os.pread(backing.descriptor, 4, backing.offset(collective.arena[1, 1]))
            assert read == bytes([number + 7] * 4)


def test_memory_of_one_process_has_no_file_behind_it() -> None:
    """Which AMD's open driver would refuse."""
    arena = private_arena(1, 4096)
    address = arena.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(edge, 16) for edge in line.split(maxsplit=1)[0].split("-"))
        if start <= address < stop:
            assert line.split()[1][3] == "p" and line.split()[4] == "0"


def test_the_kernel_is_asked_for_a_dma_buf(tmp_path: Path) -> None:
    asked = []
    device = tmp_path / "udmabuf"
    device.touch()

    def ioctl(driver: int, request: int, argument: bytearray, changes: bool) -> int:
        asked.append(
            (str(Path(f"/proc/self/fd/{driver}").readlink()), request, REQUEST.unpack(argument), changes)
        )
        return 77

    assert dma_buf_of(5, 8192, 4096, device, ioctl) == 77
    assert asked == [(str(device), CREATE, (5, 1, 8192, 4096), True)]

    def refuse(*_arguments: Any) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    open_before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(DmaBufError, match="makes no dma-buf of 4096 bytes: Invalid argument"):
        dma_buf_of(5, 8192, 4096, device, refuse)
    missing = tmp_path / "nowhere"
    with pytest.raises(DmaBufError, match="nowhere can't be opened: No such file or directory"):
        dma_buf_of(5, 0, 4096, missing)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
