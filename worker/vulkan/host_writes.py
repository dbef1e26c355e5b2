"""Writes a few of the host's numbers into a device's buffer by a command, as probes do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.worker.vulkan.api import Handle, ffi, lib, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context


def write_floats(
    context: Context,
    buffer: Handle,
    offset: int,  # in bytes
    values: npt.NDArray[np.float32],  # 16,384 at most
    *,
    stage: int,
    access: int,
) -> None:
    """Waits for the end; then this stage's accesses of this kind see them."""
    data = np.ascontiguousarray(values)
    barrier = memory_barrier(vk.VK_ACCESS_TRANSFER_WRITE_BIT, access)

    def record(commands: Handle) -> None:
        lib.vkCmdUpdateBuffer(commands, buffer, offset, data.nbytes, ffi.from_buffer(data))
        put_barrier(commands, vk.VK_PIPELINE_STAGE_TRANSFER_BIT, stage, barrier)

    context.run_once(record)
