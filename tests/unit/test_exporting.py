"""How the ranks of a host move their arena to memory that a device exports, with devices that fail in known
ways: all of them move, or none."""

from __future__ import annotations

import errno
import functools
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.models import LIMITS
from tests.unit.collectives_group import connected, create, on_ranks, open_things
from tests.unit.test_sharing import FakeSharing
from tplaunch.collectives import Collective
from tplaunch.collectives.descriptors import HandoverError
from tplaunch.worker import dma_buf
from tplaunch.worker.device import COPY, DMA_BUF, EXPORT, IMPORT, DeviceError, Mover, MovingDevice
from tplaunch.worker.dma_buf import (
    MAX_ROUNDING,
    SYNC,
    DmaBufError,
    fill_with_zeros,
    map_dma_buf,
)
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.step import exporting
from tplaunch.worker.step.exporting import Told, candidates, check_reading
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.step.sharing import attach_partials

Bytes = npt.NDArray[np.uint8]


class FakeMoving(FakeSharing):
    """A device that exports memfds, and shares in the ways that are not `refused`.

    It is its own mover. fault: the call that fails, or a part of the memory that does not fit.
    """

    can_move = True

    def __init__(self, *refused: str, fault: str = "", exports: bool = True) -> None:
        super().__init__(lose=refused)
        self.mover: Mover = self
        self.can_export, self._fault = exports, fault
        self.calls: list[str] = []
        self._before: tuple[list[str], Any] | None = None
        self._export_bytes = 0

    def export(self, num_bytes: int) -> int:
        self.calls.append("export")
        if self._fault == "export":
            raise DeviceError("the driver exports nothing")
        descriptor = os.memfd_create("other" if self._fault == "kind" else "export")
        os.ftruncate(descriptor, num_bytes - mmap.PAGESIZE if self._fault == "size" else num_bytes)
        os.pwrite(descriptor, b"left over", num_bytes // 2)
        return descriptor

    def move(self, arena: Bytes, descriptor: int, num_bytes: int) -> None:
        self.calls.append("move")
        assert not arena.any() and num_bytes % exporting.UNIT == 0
        if self._fault == "move":
            raise DeviceError("the driver refuses the memory")
        own = np.frombuffer(mmap.mmap(descriptor, num_bytes), np.uint8)
        self._before = self._ways, self._state.partials
        self._ways = [EXPORT]
        self._state.partials = own[: arena.nbytes].reshape(arena.shape).view(np.float32)

    def end_move(self, stays: bool) -> None:
        self.calls.append("stay" if stays else "back")
        if self._before is not None and not stays:
            self._ways, self._state.partials = self._before
        self._before = None


ALL = (IMPORT, DMA_BUF)  # ways that a driver may refuse
NONE_LEFT = [COPY, COPY]


@pytest.fixture(autouse=True)
def memfds_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes memfds of one name for dma-bufs; the kernel makes none here."""
    monkeypatch.setattr(dma_buf, "LINK", "/memfd:export")
    filled = functools.partial(fill_with_zeros, ioctl=lambda *_arguments: 0)
    monkeypatch.setattr(exporting, "fill_with_zeros", filled)


def attached(devices: Sequence[NumpyDevice], kind: Any = "shared-memory") -> list[str]:
    """How each device shares in the end; sums come through, and nothing is left."""

    def attach(collective: Collective) -> str:
        device = devices[collective.rank]
        runner = SegmentRunner(device, collective)
        attach_partials(runner)
        assert runner.told([float(collective.rank)])[:, 0].tolist() == list(range(len(devices)))
        collective.own(0)[:100] = 1 + np.arange(100)
        runner.exchange(0, 100)
        found = collective.partials(0)[:, :100]
        assert found.sum(axis=0).tolist() == [len(devices) * (1 + i) for i in range(100)]
        # The device sees what its host does.
        assert np.array_equal(device._state.partials[0, : collective.num_partials, :100], found)
        runner.exchange(1, 0)
        return device.sharing

    before = open_things()[0]
    with connected(kind, len(devices), slot_bytes=4096) as collectives:
        ways: list[str] = on_ranks(collectives, attach)
        assert all(not collective.words.any() for collective in collectives if collective.words is not None)
    for device in devices:
        device._state.partials = device._shared = np.zeros((2, 0, 0), np.float32)
        device._state.bytes.clear()
    assert open_things()[0] == before
    return ways


def test_where_sums_would_be_copied_all_ranks_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "read_seconds", lambda memory: 1.0)
    devices = [FakeMoving(exports=False), FakeMoving(), FakeMoving(*ALL)]
    assert isinstance(devices[0], MovingDevice)
    assert attached([*devices, NumpyDevice(LIMITS)]) == [EXPORT] * 3 + [IMPORT]
    assert [device.calls for device in devices] == [["move", "stay"]] * 2 + [["export", "move", "stay"]]


def test_nobody_moves_without_need() -> None:
    devices = [FakeMoving(), FakeMoving(IMPORT)]
    assert attached(devices) == [IMPORT, DMA_BUF] and not any(device.calls for device in devices)
    assert attached([FakeSharing(lose=ALL), FakeMoving(*ALL)]) == [COPY, COPY]  # the first takes nothing
    assert attached([FakeMoving(*ALL, exports=False), NumpyDevice(LIMITS)]) == [COPY, IMPORT]


@pytest.mark.parametrize(
    ("fault", "calls", "others"),
    [
        ("export", ["export", "back"], ["back"]),
        ("size", ["export", "back"], ["back"]),
        ("move", ["export", "move", "back"], ["move", "back"]),
    ],
)
def test_where_one_fails_all_stay_as_they_were(
    caplog: pytest.LogCaptureFixture, fault: str, calls: list[str], others: list[str]
) -> None:
    caplog.set_level("INFO")
    faulty, other = FakeMoving(*ALL, fault=fault), FakeMoving(exports=False)
    assert attached([other, faulty]) == [IMPORT, COPY]
    assert faulty.calls == calls and other.calls == others
    assert " does not share partial sums by an export: " in caplog.text


def test_a_peer_that_refuses_has_the_next_device_export() -> None:
    peer, faulty = FakeMoving(), FakeMoving(*ALL, fault="move")
    assert attached([peer, faulty]) == [IMPORT, COPY]
    once = ["move", "back"]
    assert faulty.calls == ["export", *once, *once] and peer.calls == [*once, "export", *once]
    assert attached([FakeMoving(), FakeMoving(*ALL, fault="export")]) == [EXPORT, EXPORT]


def test_what_does_not_come_through_is_not_kept(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    devices = [FakeMoving(*ALL, EXPORT), FakeMoving(*ALL, exports=False), NumpyDevice(LIMITS)]
    monkeypatch.setattr(exporting, "read_seconds", lambda memory: 1.0)
    assert attached(devices) == [COPY, COPY, IMPORT]
    assert "sums do not come through in memory that rank 0 exports" in caplog.text


def test_a_rank_that_takes_no_descriptor_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(number: int, process: int) -> Any:
        raise HandoverError("no")

    monkeypatch.setattr(exporting, "Caller", broken)
    assert attached([FakeMoving(*ALL), FakeMoving(*ALL)]) == NONE_LEFT


def test_hosts_move_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hosts: on one all is well, one moves, and one has a single rank."""
    monkeypatch.setattr(exporting, "read_seconds", lambda memory: 1.0)
    hosts = functools.partial(create, "shared-memory", hosts=(0, 0, 1, 1, 2))
    devices = [FakeMoving(), FakeMoving(), FakeMoving(*ALL), FakeMoving(), FakeMoving()]
    assert attached(devices, hosts) == [IMPORT, IMPORT, EXPORT, EXPORT, IMPORT]
    seconds = iter((2.6, 1.0))  # of the first rank, which adds up, as in test_hosts_that_read_slowly_copy()
    monkeypatch.setattr(exporting, "read_seconds", lambda memory: next(seconds))
    hosts = functools.partial(create, "shared-memory", hosts=(0, 0, 1))
    devices = [FakeMoving(*ALL), FakeMoving(exports=False), FakeMoving()]
    assert attached(devices, hosts) == [COPY, IMPORT, IMPORT]


def test_hosts_that_read_slowly_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((3.0, 1.0))
    monkeypatch.setattr(exporting, "read_seconds", lambda memory: next(seconds))
    assert attached([FakeMoving(*ALL), NumpyDevice(LIMITS)]) == [
        COPY,
        IMPORT,
    ]  # 2 x 3 are more than 2 + 1 + 2
    check_reading(3.0, 1.0, 2, 3)
    with pytest.raises(DeviceError, match=r"takes 3\.1 times as long to read exported memory"):
        check_reading(3.1, 1.0, 2, 3)


def test_the_device_that_refuses_imports_exports_first() -> None:
    ranks = [Told(0, 1, 1, 5), Told(1, 1, 1, 6), Told(0, 0, 1, 7), Told(1, 1, 0, 8)]
    assert candidates(ranks, (0, 1)) == [1, 0]
    assert candidates(ranks, (0, 1, 2)) == [2]  # takes nothing, so only its own memory is left
    assert candidates(ranks, (0, 3)) == [0] and candidates(ranks, (0, 2)) == []
    assert candidates(ranks, (3,)) == []


def test_only_dma_bufs_of_the_size_are_mapped(tmp_path: Any) -> None:
    held = os.memfd_create("export")
    os.ftruncate(held, 8192)
    assert len(map_dma_buf(held, 4096)) == 4096
    for size in (4095, 4097 + MAX_ROUNDING):
        os.ftruncate(held, size)
        with pytest.raises(DmaBufError, match=f"the dma-buf has {size} bytes, not 4096"):
            map_dma_buf(held, 4096)
    os.close(held)
    plain = os.open(tmp_path / "export", os.O_RDWR | os.O_CREAT)
    read, write = os.pipe()
    for other in (plain, read):
        with pytest.raises(DmaBufError, match="what came as a dma-buf is "):
            map_dma_buf(other, 4096)
    for other in (plain, read, write):
        os.close(other)
    with pytest.raises(DmaBufError, match="a dma-buf of 4096 bytes can't be mapped: No such file"):
        map_dma_buf(held, 4096)


def test_the_kernel_is_told_of_zeros() -> None:
    asked: list[tuple[int, int, bytes, bool]] = []
    memory = mmap.mmap(-1, 4096)
    memory[:4] = b"left"

    def ioctl(descriptor: int, request: int, argument: bytes) -> int:
        asked.append((descriptor, request, argument, memory[:4] == b"left"))
        return 0

    fill_with_zeros(5, memory, ioctl)
    assert asked == [(5, SYNC, b"\3" + bytes(7), True), (5, SYNC, b"\7" + bytes(7), False)]

    def refuse(*_arguments: Any) -> int:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    with pytest.raises(DmaBufError, match="the kernel lets no host write to a dma-buf: Inappropriate"):
        fill_with_zeros(5, memory, refuse)
