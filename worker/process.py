"""What binds a worker to its machine: its parent, its cores, its pages. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Has the kernel end this process when its parent ends (prctl(2)); at once if that has happened."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def leave_interrupts_to_launcher() -> None:
    """Ctrl-C reaches the whole foreground group; the launcher is the one to act on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def pin(cores: list[int]) -> None:
    """Keeps all threads of this process on the given cores: those to come, and those that there are.

    A library such as NumPy's BLAS starts its threads when it is imported, and sched_setaffinity(2) moves one
    thread only; a thread that is started meanwhile inherits the cores of the one that starts it.
    """
    pinned: set[int] = set()
    while new := {int(task.name) for task in Path("/proc/self/task").iterdir()} - pinned:
        for task in new:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(task, cores)
        pinned |= new


def advise_huge_pages(memory: npt.NDArray[np.uint8]) -> None:
    """Asks the kernel for large pages (madvise(2)), of which the first writes fault in 512 times fewer.

    Only advice: a kernel without them, or memory that is a device's, refuses, and nothing changes.
    """
    start = -(-memory.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    length = memory.ctypes.data + memory.nbytes - start
    if length > 0:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
