"""Submits a program's segments and lets them go one by one, by two timeline semaphores.

The device counts the segments it has ended on one, the host those that may begin on the other. Calls on a
step's way use structs that were made with the program: only numbers in them change.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import numpy as np

from tplaunch.running_clock import LOOK_SECONDS, RunningClock
from tplaunch.worker.device import DeviceError
from tplaunch.worker.vulkan.api import Handle, array, create, ffi, lib, result_name, struct, vk
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.waiting import EndWord, Look, poll, spin

DRAIN_SECONDS = 10.0
LOOK_NANOSECONDS = int(LOOK_SECONDS * 1e9)
SUCCESS = 0  # VK_SUCCESS, also where there is no loader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """A C array of command buffers: of each segment one or several, which follow each other."""

    commands: Handle
    num_pieces: tuple[int, ...]  # of each segment


class Submission:
    """The VkSubmitInfos of a program's segments, and the semaphore values in them.

    A segment's pieces are submissions of their own, for the sake of drivers' watchdogs; the host has no part
    between them.
    """

    def __init__(self, recorded: Recorded, ended: Handle, allowed: Handle, waits: bool) -> None:
        commands, count = recorded.commands, len(recorded.commands)
        self.num_segments = len(recorded.num_pieces)
        self.starts = [
            0,
            *itertools.accumulate(recorded.num_pieces),
        ]  # of segments' pieces
        assert self.starts[-1] == count, f"{self.starts[-1]} pieces in {count} command buffers"
        first_pieces = set(self.starts[1:])  # the first segment begins at once
        self.infos = ffi.new("VkSubmitInfo[]", count)
        wait_values, signal_values = ffi.new("uint64_t[]", count), ffi.new("uint64_t[]", count)
        allowed_array, ended_array = array("VkSemaphore", [allowed]), array("VkSemaphore", [ended])
        stages = ffi.new("VkPipelineStageFlags[]", [vk.VK_PIPELINE_STAGE_ALL_COMMANDS_BIT])
        self._alive = [commands, allowed_array, ended_array, stages]
        for i in range(count):
            num_waits = int(waits and i in first_pieces)
            timeline = struct(
                "VkTimelineSemaphoreSubmitInfo",
                waitSemaphoreValueCount=num_waits,
                pWaitSemaphoreValues=wait_values + i,
                signalSemaphoreValueCount=1,
                pSignalSemaphoreValues=signal_values + i,
            )
            info = struct(
                "VkSubmitInfo",
                pNext=timeline,
                waitSemaphoreCount=num_waits,
                pWaitSemaphores=allowed_array,
                pWaitDstStageMask=stages,
                commandBufferCount=1,
                pCommandBuffers=commands + i,
                signalSemaphoreCount=1,
                pSignalSemaphores=ended_array,
            )
            self._alive += [timeline]
            self.infos[i] = info[0]
        self._wait_values = np.frombuffer(ffi.buffer(wait_values), np.uint64)
        self._signal_values = np.frombuffer(ffi.buffer(signal_values), np.uint64)
        self._alive += [wait_values, signal_values]
        self._numbers = np.arange(count, dtype=np.uint64)

    def begin_at(self, base: int) -> None:
        """Piece i waits, if it begins a segment, for base + i, and signals base + i + 1."""
        np.add(self._numbers, np.uint64(base), out=self._wait_values)
        np.add(self._numbers, np.uint64(base + 1), out=self._signal_values)


class Timeline:
    """One device's queue. With submit_ahead all segments are queued at once, else each when it may run."""

    def __init__(self, context: Context, submit_ahead: bool, timeout_seconds: float) -> None:
        self._context = context
        self._device, self._queue = context.device, context.queue
        self._submit_ahead = submit_ahead
        self._timeout_seconds = timeout_seconds
        self._ended, self._allowed = self._create_semaphore(), self._create_semaphore()
        self._base = 0  # pieces of all steps before this one
        self._submitted = 0  # pieces that the queue has got
        self._current: Submission | None = None
        self._wait_value = ffi.new("uint64_t[1]")
        self._wait_info = struct(
            "VkSemaphoreWaitInfo",
            semaphoreCount=1,
            pSemaphores=array("VkSemaphore", [self._ended]),
            pValues=self._wait_value,
        )
        self._signal_info = struct("VkSemaphoreSignalInfo", semaphore=self._allowed)
        self._poll = poll(self._device, self._ended)
        self._looks: tuple[Look, Look] | None = None  # at a segment and at the last one, while still awake
        self.end_word: EndWord | None = None  # what is recorded at the end of segments
        # Looked up once: each is called between a segment's end and the next one's beginning.
        self._wait, self._signal = lib.vkWaitSemaphores, lib.vkSignalSemaphore

    def _create_semaphore(self) -> Handle:
        kind = struct("VkSemaphoreTypeCreateInfo", semaphoreType=vk.VK_SEMAPHORE_TYPE_TIMELINE)
        return create(
            "vkCreateSemaphore", "VkSemaphore", self._device, struct("VkSemaphoreCreateInfo", pNext=kind)
        )

    def wait_by(self, way: str, end_word: EndWord | None = None) -> None:
        """From now on waits so: "block" asleep, or awake at first by "poll", or by the "word".

        By the word only for what was recorded with it.
        """
        assert (way == "word") == (end_word is not None), f"waiting by {way} and {end_word}"
        self.end_word = end_word
        between = self._poll if end_word is None else end_word.look
        self._looks = None if way == "block" else (between, self._poll)

    def submission(self, recorded: Recorded) -> Submission:
        """Made once per program."""
        return Submission(recorded, self._ended, self._allowed, self._submit_ahead)

    def submit(self, submission: Submission) -> None:
        """Queues a step; its first segment begins."""
        if self._current is not None:
            self._base += self._current.starts[-1]
        self._current = submission
        if self.end_word is not None:
            self.end_word.reset()
        submission.begin_at(self._base)
        self._queue_segments(0, submission.num_segments if self._submit_ahead else 1)

    def _queue_segments(self, first: int, count: int) -> None:
        assert self._current is not None
        start, stop = self._current.starts[first], self._current.starts[first + count]
        infos = self._current.infos + start
        self._context.check(lib.vkQueueSubmit(self._queue, stop - start, infos, ffi.NULL), "vkQueueSubmit")
        self._submitted = self._base + stop

    def release(self, segment: int) -> None:
        """Lets a segment begin."""
        if not self._submit_ahead:
            self._queue_segments(segment, 1)
            return
        assert self._current is not None
        self._signal_info.value = self._base + self._current.starts[segment]
        status = self._signal(self._device, self._signal_info)
        if status != SUCCESS:
            self._context.check(status, "vkSignalSemaphore")

    def wait(self, segment: int) -> None:
        """Raises DeviceError when the segment does not end in time, or the device is lost."""
        assert self._current is not None
        at_end = self._base + self._current.starts[segment + 1]
        if self._looks is not None:
            look = self._looks[segment + 1 == self._current.num_segments]
            if spin(lambda: look(segment, at_end)):
                return
        status = self._wait_for(at_end, self._timeout_seconds)
        if status != SUCCESS:
            self._refuse_wait(segment, status)

    def _refuse_wait(self, segment: int, status: int) -> None:
        if status == vk.VK_TIMEOUT:
            seconds = self._timeout_seconds
            raise DeviceError(f"segment {segment} of the step has not ended after {seconds:g} s")
        self._context.check(status, f"vkWaitSemaphores for segment {segment}")

    def _wait_for(self, value: int, seconds: float) -> int:
        self._wait_value[0] = value
        nanoseconds = min(LOOK_NANOSECONDS, int(seconds * 1e9))
        status: int = self._wait(self._device, self._wait_info, nanoseconds)
        if (
            status == vk.VK_TIMEOUT
        ):  # the driver's clock goes on while this process is stopped, its threads don't
            clock = RunningClock()
            while status == vk.VK_TIMEOUT and clock() < seconds:
                status = self._wait(self._device, self._wait_info, LOOK_NANOSECONDS)
        return status

    def drain(self) -> bool:
        """Lets all that is queued run, without all-reduces. False if it has not ended in some seconds."""
        if self._submitted == 0:
            return True
        value = ffi.new("uint64_t *")
        status = lib.vkGetSemaphoreCounterValue(self._device, self._allowed, value)
        if status == vk.VK_SUCCESS and value[0] < self._submitted:
            self._signal_info.value = self._submitted
            status = lib.vkSignalSemaphore(self._device, self._signal_info)
        if status == vk.VK_SUCCESS:
            status = self._wait_for(self._submitted, DRAIN_SECONDS)
        if status != vk.VK_SUCCESS:
            logger.warning("emptying the device's queue gave %s", result_name(status))
        return bool(status != vk.VK_TIMEOUT)

    def close(self) -> None:
        """After drain."""
        for semaphore in (self._ended, self._allowed):
            lib.vkDestroySemaphore(self._device, semaphore, ffi.NULL)
