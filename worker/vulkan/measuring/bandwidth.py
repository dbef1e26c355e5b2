"""Measures how fast a device copies its own memory: the best that its kernels could read at."""

from __future__ import annotations

import time

from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan.api import Handle, ffi, lib, struct, vk
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.memory import Memory

NUM_COPIES = 4  # in one submission, so that its cost does not count
NUM_TRIALS = 3


def copy_bandwidth(context: Context, unmapped: bool) -> float:
    """Bytes read and written per second in buffers like those of weights; 0 where memory is short.

    More bytes than any cache holds; a driver for CPUs gets fewer, to be done sooner.
    """
    nbytes = min(context.info.max_allocation, (64 if context.info.type == "cpu" else 256) << 20)
    memory = Memory(context, unmapped)
    try:
        memory.create({"source": Buffer(nbytes), "target": Buffer(nbytes)})
        seconds = min(_time_copies(context, memory, nbytes) for _ in range(NUM_TRIALS))
    except DeviceError:
        return 0.0
    finally:
        memory.close()
    return 2 * NUM_COPIES * nbytes / seconds


def _time_copies(context: Context, memory: Memory, nbytes: int) -> float:
    source, target = memory["source"], memory["target"]
    assert source.block is not None and target.block is not None
    region = struct("VkBufferCopy", srcOffset=source.offset, dstOffset=target.offset, size=nbytes)
    buffers = source.block.buffer, target.block.buffer
    started = time.perf_counter()
    context.run_once(lambda commands: _record(commands, *buffers, region))
    return time.perf_counter() - started


def _record(commands: Handle, source: Handle, target: Handle, region: Handle) -> None:
    stage, access = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_ACCESS_TRANSFER_WRITE_BIT
    barrier = struct("VkMemoryBarrier", srcAccessMask=access, dstAccessMask=access)
    for _ in range(NUM_COPIES):
        lib.vkCmdCopyBuffer(commands, source, target, 1, region)
        lib.vkCmdPipelineBarrier(commands, stage, stage, 0, 1, barrier, 0, ffi.NULL, 0, ffi.NULL)
