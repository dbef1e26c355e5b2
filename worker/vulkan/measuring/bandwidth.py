"""Measures how fast bytes move: inside a device's own memory, and between that and the host's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan.api import Handle, lib, struct, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.memory import Memory

NUM_COPIES = 4  # in one submission, so that its cost does not count
NUM_TRIALS = 3
NUM_BYTES, NUM_BYTES_ON_CPU = 256 << 20, 64 << 20  # more than caches hold; on a CPU to be done sooner
Bytes = npt.NDArray[np.uint8]
SOURCE, TARGET, HOST = "source", "target", "host"


def copy_bandwidth(context: Context, unmapped: bool) -> float:
    """Bytes read and written per second in buffers like those of weights; 0 where memory is short."""
    try:
        with open_copies(context, unmapped) as copies:
            return copies.on_device()
    except DeviceError:
        return 0.0


class Copies:
    """Two buffers in a device's own memory, and perhaps one in the host's, between which bytes are copied."""

    def __init__(self, context: Context, memory: Memory, nbytes: int, with_host: bool) -> None:
        self._context, self._memory, self.nbytes = context, memory, nbytes
        memory.create(dict.fromkeys((SOURCE, TARGET), Buffer(nbytes)))
        if with_host:
            memory.create({HOST: Buffer(nbytes, Placement.READBACK)})

    def on_device(self) -> float:
        """Returns the bytes per second that the device reads and writes in its own memory."""
        return 2 * self.nbytes / self._seconds(SOURCE, TARGET)

    def from_host(self) -> float:
        """Returns the bytes per second that the device fetches from the host's memory."""
        return self.nbytes / self._seconds(HOST, TARGET)

    def to_host(self) -> float:
        """Returns the bytes per second that the device brings to the host's memory."""
        return self.nbytes / self._seconds(SOURCE, HOST)

    def written_by_host(self) -> float:
        """Returns the bytes per second that the host writes to the device's memory; 0 where it can't."""
        target = self._memory[TARGET].mapped
        return 0.0 if target is None else self._host_rate(target, np.ones(self.nbytes, np.uint8))

    def read_by_host(self) -> float:
        """Returns the bytes per second that the host reads of what the device has brought there."""
        source = self._memory[HOST].mapped
        assert source is not None, "the host reads its own memory"
        return self._host_rate(np.ones(self.nbytes, np.uint8), source)

    def _host_rate(self, target: Bytes, source: Bytes) -> float:
        return self.nbytes / _least(lambda: np.copyto(target, source))

    def _seconds(self, source: str, target: str) -> float:
        """Times a copy by the device."""
        here, there = self._memory[source], self._memory[target]
        assert here.block is not None and there.block is not None, "the buffers have bytes"
        region = struct("VkBufferCopy", srcOffset=here.offset, dstOffset=there.offset, size=self.nbytes)
        buffers = here.block.buffer, there.block.buffer

        def record(commands: Handle) -> None:
            _record(commands, *buffers, region)

        return _least(lambda: self._context.run_once(record)) / NUM_COPIES


@contextmanager
def open_copies(context: Context, unmapped: bool = False, with_host: bool = False) -> Iterator[Copies]:
    """Frees the buffers at the end. Raises DeviceError where there is no room for them."""
    wanted = NUM_BYTES_ON_CPU if context.info.type == "cpu" else NUM_BYTES
    memory = Memory(context, unmapped)
    try:
        yield Copies(context, memory, min(context.info.max_allocation, wanted), with_host)
    finally:
        memory.close()


def _least(run: Callable[[], None]) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(NUM_TRIALS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _record(commands: Handle, source: Handle, target: Handle, region: Handle) -> None:
    stage, access = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_ACCESS_TRANSFER_WRITE_BIT
    for _ in range(NUM_COPIES):
        lib.vkCmdCopyBuffer(commands, source, target, 1, region)
        put_barrier(commands, stage, stage, memory_barrier(access, access))
