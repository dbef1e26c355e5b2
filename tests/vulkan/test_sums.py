"""All places and ways of partial sums on real drivers: shared, copied and moved, each with the same bits."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.drivers import FINDERS
from tests.models import LIMITS
from tests.several_hosts import engine_on_hosts
from tests.unit.collectives_group import connected, on_ranks
from tests.vulkan.conftest import Opener
from tests.vulkan.test_steps import engine_on, on, plain_model, run
from tplaunch.collectives import Collective
from tplaunch.collectives.arena import PAGE_BYTES, Backing
from tplaunch.worker.device import COPY, DMA_BUF, IMPORT, DeviceError
from tplaunch.worker.dma_buf import UDMABUF
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.step.sharing import attach_partials
from tplaunch.worker.vulkan import imports, listing
from tplaunch.worker.vulkan.api import vk
from tplaunch.worker.vulkan.device import VulkanDevice

__all__ = ["plain_model"]  # a fixture


def logits(
    open_device: Opener,
    model: Path,
    drivers: Sequence[str],
    wire: str | None = None,
    two_phase: bool = False,
    **way: Any,
) -> list[npt.NDArray[np.float32]]:
    engine = engine_on(model, [on(open_device, driver, **way) for driver in drivers], None, two_phase)
    for rank in engine.ranks:
        rank.wire = wire
    found = run(engine)
    if not way.get("staging") and len(set(drivers)) == 1:
        held = [rank.device.view("final").tobytes() for rank in engine.ranks]
        assert len(set(held)) == 1  # the same bits on every rank
    for rank in engine.ranks:
        rank.device.close()
    return found


def assert_same(actual: list[npt.NDArray[np.float32]], expected: list[npt.NDArray[np.float32]]) -> None:
    assert all(np.array_equal(mine, other) for mine, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("driver", "num_ranks"),
    [*(("lavapipe", count) for count in (1, 2, 3, 4)), ("swiftshader", 2)],
)
def test_sums_that_are_copied_or_moved_have_the_same_bits(
    open_device: Opener, plain_model: Path, driver: str, num_ranks: int
) -> None:
    drivers = [driver] * num_ranks
    direct = logits(open_device, plain_model, drivers)
    assert_same(logits(open_device, plain_model, drivers, staging=True), direct)
    assert_same(logits(open_device, plain_model, drivers, "f32", staging=num_ranks % 2 == 0), direct)
    if num_ranks == 3:
        assert_same(logits(open_device, plain_model, drivers, "f32", two_phase=True), direct)


@pytest.mark.parametrize("drivers", [["lavapipe"] * 3, ["mesa", "lavapipe"]], ids=str)
def test_rounded_sums_are_the_same_in_one_phase_and_in_two(
    open_device: Opener, plain_model: Path, drivers: list[str]
) -> None:
    exact = logits(open_device, plain_model, drivers)
    rounded = logits(open_device, plain_model, drivers, "bf16")
    assert_same(logits(open_device, plain_model, drivers, "bf16", two_phase=True), rounded)
    assert_same(logits(open_device, plain_model, drivers, "bf16", staging=True), rounded)
    errors = [np.abs(one - other).max() for one, other in zip(rounded, exact, strict=True) if one.size]
    assert 0 < max(errors) < 0.05


def test_moves_are_what_numpy_ranks_make_of_them(open_device: Opener, plain_model: Path) -> None:
    """A NumPy rank and a device read each other's rounded numbers."""
    found = []
    for first in (on(open_device, "lavapipe"), NumpyDevice):
        engine = engine_on(plain_model, [first, NumpyDevice])
        for rank in engine.ranks:
            rank.wire = "bf16"
        found.append(run(engine))
    for mine, other in zip(*found, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=0.02)


@pytest.mark.parametrize("hosts", [(0, 1), (0, 0, 1)], ids=str)
@pytest.mark.parametrize("host_sums", [False, True])
def test_what_hosts_round_is_taken_back(
    open_device: Opener, plain_model: Path, hosts: tuple[int, ...], host_sums: bool
) -> None:
    """Between hosts bf16 is the hosts' business: a device goes on with its own numbers as they were sent."""
    with engine_on_hosts(
        plain_model, hosts, "bf16", host_sums, open_device=on(open_device, "lavapipe")
    ) as engine:
        direct = run(engine)
    with engine_on_hosts(
        plain_model, hosts, "bf16", host_sums, open_device=on(open_device, "lavapipe")
    ) as engine:
        for rank in engine.ranks:
            rank.wire, rank.hosts_touch_sums = "f32", True
        assert_same(run(engine), direct)


def shared(devices: Sequence[VulkanDevice]) -> list[str]:
    """How each of these devices shares an arena with the others, which are closed then."""
    with connected("shared-memory", len(devices), slot_bytes=4096) as collectives:

        def share(collective: Collective) -> str:
            device = devices[collective.rank]
            attach_partials(SegmentRunner(device, collective))
            return device.sharing

        found = on_ranks(collectives, share)
        for device in devices:
            device.close()
        return found


@pytest.mark.parametrize("drivers", [("lavapipe", "mesa", "swiftshader"), ("lavapipe", "lavapipe")], ids=str)
def test_numbers_come_through_between_drivers(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, drivers: tuple[str, ...]
) -> None:
    def opened() -> list[VulkanDevice]:
        return [open_device(driver, LIMITS) for driver in drivers]

    ways = {"swiftshader": COPY}  # as it says
    assert shared(opened()) == [ways.get(driver, IMPORT) for driver in drivers]
    monkeypatch.setattr(listing, "imports_host_memory", lambda handle: True)
    assert shared(opened()) == [IMPORT] * len(drivers)


def test_an_import_that_is_a_copy_is_found_out(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The driver takes the memory, and what it reads is not what others wrote."""
    caplog.set_level("INFO")
    devices = [open_device("lavapipe", LIMITS) for _ in range(2)]
    seen = devices[1].seen_partials

    def stale(count: int) -> npt.NDArray[np.float32]:
        return seen(count) * (devices[1].sharing == COPY)

    monkeypatch.setattr(devices[1], "seen_partials", stale)
    assert shared(devices) == [IMPORT, COPY]
    assert "partial sums do not come through by imported host memory" in caplog.text
    assert "does not share partial sums by dma-buf: " in caplog.text  # the driver can't, or the kernel


@pytest.mark.parametrize("driver", FINDERS)
def test_a_driver_that_refuses_both_imports_has_its_sums_copied(
    open_device: Opener, plain_model: Path, driver: str
) -> None:
    without = ("dma_buf_import", "host_memory_import")
    devices = [open_device(driver, LIMITS, without=without) for _ in range(2)]
    assert not any(device.info.host_memory_import or device.info.dma_buf_import for device in devices)
    assert shared(devices) == [COPY, COPY]


def test_where_the_kernel_makes_no_dma_buf_sums_are_copied(
    open_device: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    devices = [open_device("mesa", LIMITS, without=("host_memory_import",)) for _ in range(2)]
    is_taken = devices[0].info.dma_buf_import and os.access(UDMABUF, os.R_OK | os.W_OK)
    assert shared(devices) == [DMA_BUF if is_taken else COPY] * 2
    assert "does not share partial sums by import: the driver can't import host memory" in caplog.text
    assert is_taken or "does not share partial sums by dma-buf" in caplog.text


@pytest.fixture
def own_file() -> Iterator[tuple[npt.NDArray[np.uint8], Backing]]:
    """An arena [2, 2, a page] that is all of a memfd: to map that is what a dma-buf of it would be."""
    descriptor = os.memfd_create("arena", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, 4 * PAGE_BYTES)
    memory = np.frombuffer(mmap.mmap(descriptor, 4 * PAGE_BYTES), np.uint8)
    yield memory.reshape(2, 2, PAGE_BYTES), Backing(descriptor, memory.ctypes.data)
    os.close(descriptor)


def test_a_dma_buf_is_taken_where_mapped_memory_is_refused(
    open_device: Opener, monkeypatch: pytest.MonkeyPatch, own_file: tuple[npt.NDArray[np.uint8], Backing]
) -> None:
    """Newer lavapipes take dma-bufs, by mapping them; the kernel's part is played, as it may make none."""
    arena, backing = own_file
    asked: list[tuple[int, int, int]] = []

    def dma_buf_of(memfd: int, offset: int, num_bytes: int) -> int:
        asked.append((memfd, offset, num_bytes))
        return os.dup(memfd)

    monkeypatch.setattr(imports, "dma_buf_of", dma_buf_of)
    device = open_device("mesa", LIMITS, without=("host_memory_import",))
    if not device.info.dma_buf_import:
        pytest.skip("this lavapipe takes no dma-bufs")
    device.back_partials(backing)
    device.attach_partials(arena, 1, 2)
    assert device.sharing == DMA_BUF and asked == [(backing.descriptor, 0, arena.nbytes)]
    device.put_partials(np.arange(4, dtype=np.float32))
    assert arena[0, 1, :16].view(np.float32).tolist() == [0, 1, 2, 3]
    arena[0, 0, :16].view(np.float32)[:] = 9
    assert device.seen_partials(4).tolist() == [[9] * 4, [0, 1, 2, 3]]
    assert device.share_otherwise() and device.sharing == COPY and not device.share_otherwise()
    device.close()


def test_a_refused_dma_buf_is_closed(open_device: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    device = open_device("lavapipe", LIMITS)
    read, write = os.pipe()
    refuse = lambda *_arguments: vk.VK_ERROR_INVALID_EXTERNAL_HANDLE  # noqa: E731
    monkeypatch.setattr(device._context, "function", lambda name: refuse)
    with pytest.raises(DeviceError, match="vkGetMemoryFdPropertiesKHR failed with"):
        imports.import_dma_buf(device._context, read, 4096)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)
    os.close(write)
