"""The arena moved to memory that a device exports, by drivers that do it: SwiftShader's memory has a file
behind it that other processes map, and newer lavapipes take one for a dma-buf."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.models import LIMITS
from tests.unit.collectives_group import connected, on_ranks, open_things
from tests.vulkan.conftest import Opener
from tplaunch.collectives import Collective
from tplaunch.worker import dma_buf
from tplaunch.worker.device import COPY, EXPORT, IMPORT, DeviceError
from tplaunch.worker.jobs import pair
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.step import exporting
from tplaunch.worker.step.segments import SegmentRunner
from tplaunch.worker.step.sharing import attach_partials
from tplaunch.worker.vulkan import context, exports, listing
from tplaunch.worker.vulkan.api import vk
from tplaunch.worker.vulkan.device import VulkanDevice

FILE_EXTENSION = "VK_KHR_external_memory_fd"
OpenExporter = Callable[..., VulkanDevice]


@pytest.fixture
def open_exporter(open_device: Opener, monkeypatch: pytest.MonkeyPatch) -> OpenExporter:
    """Opens a SwiftShader that says of dma-bufs what it can do with memfds."""
    monkeypatch.setattr(dma_buf, "LINK", "/memfd:")
    no_words = functools.partial(dma_buf.fill_with_zeros, ioctl=lambda *_arguments: 0)
    monkeypatch.setattr(exporting, "fill_with_zeros", no_words)
    monkeypatch.setattr(exports, "handle_type", lambda: vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT)

    def open_it(**options: Any) -> VulkanDevice:
        with pytest.MonkeyPatch.context() as patch:
            for module in (listing, context):
                patch.setattr(module, "DMA_BUF_EXTENSIONS", (FILE_EXTENSION,))
            patch.setattr(listing, "exports_dma_bufs", lambda handle: True)
            return open_device("swiftshader", pair.LIMITS, **options)

    return open_it


def test_two_drivers_add_up_in_memory_that_one_exports(
    open_device: Opener, open_exporter: OpenExporter
) -> None:
    devices = [open_exporter(), open_device("mesa", pair.LIMITS)]
    with connected("shared-memory", 2, slot_bytes=pair.LENGTH * 4) as collectives:

        def run(collective: Collective) -> Any:
            device = devices[collective.rank]
            measured = pair.Pair(device, SegmentRunner(device, collective))
            return device.sharing, measured.sharing(), measured.by_devices()
        print(on_ranks(collectives, run))
    for device in devices:
        device.close()
