"""The arena moved to memory that a device exports, by drivers that do it: SwiftShader's memory has a file
behind it that other processes map, and newer lavapipes take one for a dma-buf."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.unit.collectives_group import connected, on_ranks
from tests.vulkan.conftest import Opener
from tests.vulkan.test_device_exchange import PROGRAM, at_number
from tests.vulkan.test_sums import shared
from tplaunch.collectives import Collective
from tplaunch.worker import dma_buf
from tplaunch.worker.device import COPY, EXPORT, IMPORT, DeviceError
from tplaunch.worker.jobs import pair
from tplaunch.worker.measuring.waiting import known_numbers
from tplaunch.worker.step import exporting
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.vulkan import context, exports, listing, sums
from tplaunch.worker.vulkan.api import vk
from tplaunch.worker.vulkan.device import VulkanDevice
from tplaunch.worker.vulkan.memory import free

FILE_EXTENSION = "VK_KHR_external_memory_fd"
NUM_BYTES = 64 << 10
OpenExporter = Callable[..., VulkanDevice]


@pytest.fixture
def open_exporter(open_device: Opener, monkeypatch: pytest.MonkeyPatch) -> OpenExporter:
    """Opens a SwiftShader, or another driver, that says of dma-bufs what it can do with memfds."""
    monkeypatch.setattr(dma_buf, "LINK", "/memfd:")
    no_words = functools.partial(dma_buf.fill_with_zeros, ioctl=lambda *_arguments: 0)
    monkeypatch.setattr(exporting, "fill_with_zeros", no_words)
    monkeypatch.setattr(exports, "handle_type", lambda: vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)

    def open_it(driver: str = "swiftshader", **options: Any) -> VulkanDevice:
        with pytest.MonkeyPatch.context() as patch:
            for module in (listing, context):
                patch.setattr(module, "DMA_BUF_EXTENSIONS", (FILE_EXTENSION,))
            patch.setattr(listing, "exports_dma_bufs", lambda handle: True)
            patch.setattr(listing, "imports_dma_bufs", lambda handle: False)
            return open_device(driver, pair.LIMITS, **options)

    return open_it


def test_two_drivers_add_up_in_memory_that_one_exports(
    open_device: Opener, open_exporter: OpenExporter
) -> None:
    devices = [open_exporter(), open_device("mesa", pair.LIMITS)]
    assert devices[0].mover.can_export and devices[1].mover.can_move
    with connected("shared-memory", 2, slot_bytes=pair.LENGTH * 4) as collectives:

        def run(collective: Collective) -> Any:
            device = devices[collective.rank]
            figures = pair.Pair(device, SegmentRunner(device, collective)).sharing()
            assert collective.words is not None
            device.attach_words(collective.words, collective.rank, 2)
            return device.sharing, figures

        for way, (shared, sums) in on_ranks(collectives, run):
            assert way == EXPORT and not sums.problem
            assert shared.note.startswith("rank 0 shares sums by memory that a device exports, rank 1")
        words = collectives[0].words
        assert words is not None
        check_words(devices, words)
    for device in devices:
        device.close()


def check_words(devices: list[VulkanDevice], words: npt.NDArray[np.uint8]) -> None:
    """Devices that exchange among themselves find each other's words there: one after another, so that no
    time matters."""
    values = np.stack([known_numbers(0, rank, pair.LENGTH) for rank in range(2)])
    for last_round in (False, True):
        for rank, device in enumerate(devices):
            words[:4] = 0
            at_number(device, 2)
            device.prepare(PROGRAM)
            found = device.tries_exchange(PROGRAM, values[rank])
            assert np.array_equal(found, values.transpose(1, 0, 2)) or not (last_round or rank)


def test_memory_that_hosts_see_elsewhere_is_found_out(
    open_device: Opener,
    open_exporter: OpenExporter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """This lavapipe's files begin with a header, which it needs, so that its memory is not where it is
    mapped."""
    caplog.set_level("INFO")
    monkeypatch.setattr(exporting, "fill_with_zeros", lambda descriptor, memory: None)
    devices = [
        open_exporter("lavapipe", without=("host_memory_import",)),
        open_device("mesa", pair.LIMITS),
    ]
    assert shared(devices) == [COPY, IMPORT]
    assert "by an export: the driver imported host memory, but what it writes does not arrive" in caplog.text


@pytest.mark.parametrize("fault", ["size", "driver"])
def test_where_a_peer_refuses_nothing_is_left(
    open_device: Opener, open_exporter: OpenExporter, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    devices = [open_exporter(), open_device("mesa", pair.LIMITS)]
    peer = devices[1]._context
    if fault == "size":
        monkeypatch.setattr(peer, "info", dataclasses.replace(peer.info, max_allocation=NUM_BYTES))
    else:
        refuse = lambda *_arguments: vk.VK_ERROR_INVALID_EXTERNAL_HANDLE  # noqa: E731
        function = peer.function
        monkeypatch.setattr(peer, "function", lambda name: refuse if "Fd" in name else function(name))
    exported: list[str] = []

    def noted(link: str) -> bool:
        exported.append(link)
        return True

    monkeypatch.setattr(dma_buf, "is_dma_buf", noted)
    assert shared(devices) == [COPY, IMPORT]
    links = [str(held.readlink()) for held in Path("/proc/self/fd").iterdir() if held.is_symlink()]
    assert len(exported) == 2 and not {*exported} & {*links}


def test_what_a_driver_does_not_export_it_keeps(
    open_exporter: OpenExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_exporter("lavapipe")
    freed: list[int] = []

    def spied(context: Any, block: Any) -> None:
        freed.append(block.nbytes)
        free(context, block)

    monkeypatch.setattr(exports, "free", spied)
    monkeypatch.setattr(sums, "free", spied)
    descriptor = device.mover.export(NUM_BYTES)
    assert os.fstat(descriptor).st_size >= NUM_BYTES
    os.close(descriptor)
    device.mover.end_move(stays=False)
    device.mover.end_move(stays=False)
    assert freed == [NUM_BYTES]
    with monkeypatch.context() as patch:
        refuse = lambda *_arguments: vk.VK_ERROR_TOO_MANY_OBJECTS  # noqa: E731
        patch.setattr(device._context, "function", lambda name: refuse)
        with pytest.raises(DeviceError, match="vkGetMemoryFdKHR failed with VK_ERROR_TOO_MANY_OBJECTS"):
            device.mover.export(NUM_BYTES)
    assert freed == [NUM_BYTES] * 2
    with monkeypatch.context() as patch:
        patch.setattr(exports, "export_order", lambda types, allowed: [])
        with pytest.raises(DeviceError, match="the driver has no memory for an export"):
            device.mover.export(NUM_BYTES)
    limit = dataclasses.replace(device.info, max_allocation=4096)
    monkeypatch.setattr(device._context, "info", limit)
    with pytest.raises(DeviceError, match="the arena has 65536 bytes, the largest export 4096"):
        device.mover.export(NUM_BYTES)
    monkeypatch.setattr(device._context, "info", dataclasses.replace(limit, dma_buf_export=False))
    with pytest.raises(DeviceError, match="the driver can't export memory that hosts may map"):
        device.mover.export(NUM_BYTES)
