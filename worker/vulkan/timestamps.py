"""Times each segment of a program, and each exchange in it, by the device's own clock, only when asked to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.worker.vulkan.api import Handle, call, create, ffi, lib, struct, vk
from tplaunch.worker.vulkan.context import Context

BYTES = 8  # of one timestamp


@dataclass(frozen=True)
class DeviceClock:
    """The clock of a queue: ticks that wrap around after `valid_bits`, 0 where it has none."""

    valid_bits: int
    seconds_per_tick: float

    def seconds(self, ticks: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        """Since the first of the ticks, also where the counter wrapped around in between."""
        mask = np.uint64((1 << self.valid_bits) - 1)
        elapsed: npt.NDArray[np.uint64] = (ticks - ticks.reshape(-1)[0]) & mask
        seconds: npt.NDArray[np.float64] = elapsed.astype(np.float64) * self.seconds_per_tick
        return seconds


def device_clock(context: Context) -> DeviceClock:
    """Returns the clock of the queue that the programs run on."""
    properties = ffi.new("VkPhysicalDeviceProperties *")
    lib.vkGetPhysicalDeviceProperties(context.physical, properties)
    return DeviceClock(context.queue_family.timestamp_bits, properties.limits.timestampPeriod * 1e-9)


class Timestamps:
    """Two queries for every segment of one program, and for every exchange of its devices.

    Devices exchange in programs of one segment.
    """

    def __init__(
        self, context: Context, clock: DeviceClock, num_segments: int, num_exchanges: int = 0
    ) -> None:
        assert clock.valid_bits, "the queue has no timestamps"
        assert num_segments == 1 or not num_exchanges, f"exchanges in {num_segments} segments"
        self._device, self._clock, self._num_segments = context.device, clock, num_segments
        count = num_segments + num_exchanges
        info = struct("VkQueryPoolCreateInfo", queryType=vk.VK_QUERY_TYPE_TIMESTAMP, queryCount=2 * count)
        self._pool = create("vkCreateQueryPool", "VkQueryPool", self._device, info)
        self._ticks = np.zeros((count, 2), np.uint64)

    def put_begin(self, commands: Handle, segment: int) -> None:
        num_queries = 2 * (len(self._ticks) if self._num_segments == 1 else 1)
        lib.vkCmdResetQueryPool(commands, self._pool, 2 * segment, num_queries)
        self._put(commands, 2 * segment)

    def put_exchange(self, commands: Handle, index: int, *, ends: bool) -> None:
        """Marks the begin of an exchange, behind all shaders before, or its end."""
        self._put(commands, 2 * (self._num_segments + index) + ends)

    def put_end(self, commands: Handle, segment: int) -> None:
        self._put(commands, 2 * segment + 1)

    def _put(self, commands: Handle, query: int) -> None:
        """Writes a timestamp behind the segment's release and behind all shaders before, at their stage."""
        lib.vkCmdWriteTimestamp(commands, vk.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, self._pool, query)

    def read(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Begin and end of each segment [segments, 2] and of each exchange [exchanges, 2] of a step.

        The step has ended; they are seconds since the first segment's begin.
        """
        flags = vk.VK_QUERY_RESULT_64_BIT | vk.VK_QUERY_RESULT_WAIT_BIT
        call(
            "vkGetQueryPoolResults", self._device, self._pool, 0, self._ticks.size, self._ticks.nbytes,
            ffi.from_buffer(self._ticks), BYTES, flags,
        )  # fmt: skip
        seconds = self._clock.seconds(self._ticks)
        return seconds[: self._num_segments], seconds[self._num_segments :]

    def close(self) -> None:
        lib.vkDestroyQueryPool(self._device, self._pool, ffi.NULL)
