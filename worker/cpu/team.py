"""The threads that run a device's kernels together: each does its part of a kernel, and awaits the others.

They sleep while there is nothing to do. They are Python's threads that call compiled code, which neither has
nor wants Python's lock; Python's main thread is one of them, so that a single thread is nothing but a call.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tplaunch.worker.cpu.code import Kernel, Kernels
from tplaunch.worker.cpu.memory import lines
from tplaunch.worker.cpu.team_words import FAILED, FUTEX, ROUNDS, SIZE, SLICE, SPINS, SYSTEM_CALL
from tplaunch.worker.device import DeviceError

SPIN_SECONDS = 100e-6  # that a thread stays awake: all-reduces take about as long, a step's end takes longer
SLICE_SECONDS = 1  # of sleep, after which it looks again
CLOSE_SECONDS = 5.0
TRIED_PAUSES = 10_000
FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98}  # of the system call
Function = Callable[[int, int, int], None]


def running_kernels(num_threads: int) -> tuple[str, ...]:
    """Returns the kernels that run others."""
    together = ("running.lead", "running.follow", "running.close", "running.pauses")
    return ("running.run",) if num_threads == 1 else together


class Team:
    """Runs what a recorder has recorded. Raises DeviceError where threads can't be started, or don't come."""

    def __init__(self, kernels: Kernels, num_threads: int, timeout_seconds: float) -> None:
        """timeout_seconds: that a kernel may take longer in one thread than in another."""
        self.num_threads = num_threads
        self._kernel = kernels["running.run" if num_threads == 1 else "running.lead"]
        self._lead = function_at(self._kernel)
        self._timeout_seconds = timeout_seconds
        self._memory = lines(SIZE)
        self.address = int(self._memory.ctypes.data)  # that kernels know the team by
        self._failed = self._word(FAILED)
        if num_threads > 1:
            self._prepare(kernels, timeout_seconds)
            self._threads = self._start(kernels)
            self._end = weakref.finalize(self, _close, kernels["running.close"], self._memory, self._threads)

    def run(self, arguments: int) -> None:
        """Runs kernels to their end. arguments: the address of those of running.lead."""
        self._lead(arguments, 0, self.num_threads)
        if self._failed[0]:
            raise DeviceError(
                f"a thread of {self.num_threads} did not come back from a kernel within"
                f" {self._timeout_seconds:.0f} s"
            )

    def close(self) -> None:
        """Ends the threads. Idempotent."""
        if self.num_threads > 1:
            self._end()

    def _prepare(self, kernels: Kernels, timeout_seconds: float) -> None:
        is_crowded = len(os.sched_getaffinity(0)) < self.num_threads  # who stays awake only keeps others off
        libc = ctypes.CDLL(None)
        for place, value in {
            SPINS: 0 if is_crowded else round(SPIN_SECONDS / _pause_seconds(kernels)),
            ROUNDS: max(1, round(timeout_seconds / SLICE_SECONDS)),
            SLICE: SLICE_SECONDS,
            SYSTEM_CALL: ctypes.cast(libc.syscall, ctypes.c_void_p).value or 0,
            FUTEX: FUTEX_NUMBERS[platform.machine()],
        }.items():
            self._memory[place : place + 8].view(np.int64)[0] = value

    def _start(self, kernels: Kernels) -> list[threading.Thread]:
        follow = kernels["running.follow"]
        threads: list[threading.Thread] = []
        try:
            for number in range(1, self.num_threads):
                arguments = (follow, self._memory, number, self.num_threads)
                thread = threading.Thread(target=_follow, args=arguments, daemon=True)
                thread.start()
                threads.append(thread)
        except RuntimeError as error:  # a limit on threads; those that there are would wait for it for ever
            _close(kernels["running.close"], self._memory, threads)
            raise DeviceError(
                f"{self.num_threads} threads for kernels can't be started ({error}); --cpu-threads has fewer"
            ) from error
        return threads

    def _word(self, place: int) -> npt.NDArray[np.uint32]:
        return self._memory[place : place + 4].view(np.uint32)


def function_at(kernel: Kernel) -> Function:
    """Returns a kernel as a function of Python, which is called without Python's lock.

    It takes the address of the arguments, the thread's number and the number of threads.
    """
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    found: Function = kind(kernel.address)
    return found


def _follow(kernel: Kernel, memory: npt.NDArray[np.uint8], thread: int, num_threads: int) -> None:
    """Runs kernels in a thread until its end. It holds what it uses, and leaves signals to other threads."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    team = np.array((memory.ctypes.data,), np.int64)
    function_at(kernel)(int(team.ctypes.data), thread, num_threads)


def _close(kernel: Kernel, memory: npt.NDArray[np.uint8], threads: list[threading.Thread]) -> None:
    """Has threads return that wait for an order; one that does not come back is left to the process's end."""
    team = np.array((memory.ctypes.data,), np.int64)
    function_at(kernel)(int(team.ctypes.data), 0, 1)
    deadline = time.monotonic() + CLOSE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _pause_seconds(kernels: Kernels) -> float:
    """Measures how long a thread waits at a time while it is awake: 1 to 50 ns, as the processor has it."""
    count = np.array((TRIED_PAUSES,), np.int64)
    pauses, address = function_at(kernels["running.pauses"]), int(count.ctypes.data)
    found = []
    for _ in range(3):
        begin = time.perf_counter()
        pauses(address, 0, 1)
        found.append((time.perf_counter() - begin) / TRIED_PAUSES)
    return max(min(found), 1e-9)
