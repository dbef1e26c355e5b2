"""Ways to wait for a segment's end: asleep in the driver, or awake for a short time first.

A driver that puts a thread to sleep needs an interrupt and a wake-up, 10 to 40 us on a GPU: as long as the
segment itself. To look again and again answers sooner, for the price of a core; so it is bounded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

from tplaunch.worker.vulkan.api import Handle, ffi, lib, vk
from tplaunch.worker.vulkan.staging import Block

SPIN_SECONDS = 200e-6
LONG_YIELD_SECONDS = 20e-6  # who yields the core for so long shares it, perhaps with the driver's own thread

# Rounds that a kernel looks for its peers' words in all, 32 times each. On a CPU that is 3 ms, after which
# the other rank probably has no core; and loops are cut at 65,535 there without a word. On a GPU it is a
# second of loads over PCIe, which no watchdog minds.
MAX_ROUNDS_ON_CPU, MAX_ROUNDS_ON_GPU = 6_000, 20_000

Look = Callable[[int, int], bool]  # a segment, and the semaphore's value at its end -> whether it has ended


def spin(has_ended: Callable[[], bool], clock: Callable[[], float] = monotonic) -> bool:
    """Tells whether it was seen to end in a short time, in which nobody else needed the core."""
    if has_ended():
        return True
    now = clock()
    end = now + SPIN_SECONDS
    while now < end:
        os.sched_yield()
        if has_ended():
            return True
        before, now = now, clock()
        if now - before > LONG_YIELD_SECONDS:
            return False
    return False


def poll(device: Handle, semaphore: Handle) -> Look:
    """Returns a look at the semaphore's value, which is a call of the driver that does not sleep."""
    value, get = ffi.new("uint64_t *"), lib.vkGetSemaphoreCounterValue
    success = vk.VK_SUCCESS

    def look(_segment: int, at_end: int) -> bool:
        return bool(get(device, semaphore, value) == success and value[0] >= at_end)

    return look


class EndWord:
    """A word that the last command of each segment but the last one sets to the number of segments that
    ended.

    Looking at it calls no driver. The last segment has none: what it used may be used again only when the
    driver says so.
    """

    def __init__(self, block: Block) -> None:
        assert block.mapped is not None, "the host can't see the word"
        self.buffer = block.buffer
        self._word = block.mapped[:4].data.cast("I")

    def reset(self) -> None:
        """Before a step is submitted."""
        self._word[0] = 0

    def look(self, segment: int, _at_end: int) -> bool:
        """Tells whether the segment has ended."""
        return self._word[0] > segment

    def put(self, commands: Handle, segment: int) -> None:
        """Records the command; the recorder has made visible by then what the segment wrote."""
        lib.vkCmdFillBuffer(commands, self.buffer, 0, 4, segment + 1)
