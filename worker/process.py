"""Binds a worker to its machine: its parent, its cores, its pages. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

TASKS = Path("/proc/self/task")
PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.2  # where the kernel has no pidfds


_doomed: list[Path] = []  # folders that go with the parent's end


def remove_with_parent(folder: Path) -> None:
    """Has this process remove a folder, which is its parent's, when that ends without having done so."""
    _doomed.append(folder)


def end_with_parent(parent: int) -> None:
    """Ends this process when its parent ends, whatever it is doing then; at once if that has happened.

    A thread waits for that. The kernel's own death signal (prctl(2)) would not do: it comes when the thread
    ends that started this process. It only wakes this process, which may have been stopped.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)
    descriptor = pidfd(parent)
    if os.getppid() != parent:  # else the descriptor is the parent's, and not of one with the same number
        _end()
    threading.Thread(target=_await_end, args=(parent, descriptor), daemon=True).start()


def pidfd(process_id: int) -> int | None:
    """A descriptor that is readable once the process has ended; None where that is not to be had.

    That is with kernels before 5.3, in some sandboxes, and with a Python that was built on an old system.
    """
    try:
        return os.pidfd_open(process_id)
    except (OSError, AttributeError):
        return None


def wait_readable(descriptors: Iterable[int], seconds: float | None = None) -> bool:
    """Waits until one of them has something to read, or has ended; returns false where none has in time.

    Their numbers may be of any size; select.select takes only those below 1,024.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _await_end(parent: int, descriptor: int | None) -> NoReturn:
    if descriptor is not None:
        wait_readable([descriptor])
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    _end()


def _end() -> NoReturn:
    """Ends this process, whose parent has ended."""
    for folder in _doomed:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def wants_to_run(process_id: int) -> bool:
    """Tells whether a thread of a process runs or waits for a core, so that it is slow, and not stuck."""
    return "R" in _thread_states(process_id)


def is_stopped(process_id: int) -> bool:
    """Tells whether a process was stopped by a signal or a debugger, with all of its threads."""
    states = _thread_states(process_id)
    return bool(states) and states <= {"T", "t"}


def _thread_states(process_id: int) -> set[str]:
    """Returns the states of a process's threads, as letters of proc(5)."""
    found = set()
    for task in Path(f"/proc/{process_id}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            # proc(5): the state stands behind the name in parentheses, which may hold some itself.
            found.add(task.read_text(errors="replace").rpartition(")")[2].split()[0])
    return found


def pin(cores: list[int]) -> None:
    """Keeps all threads of this process on the given cores: those to come, and those that there are.

    A library such as NumPy's BLAS starts its threads when it is imported, and sched_setaffinity(2) moves one
    thread only; a thread that is started meanwhile inherits the cores of the one that starts it.
    """
    if not TASKS.is_dir():  # no /proc, as in some sandboxes: those to come follow the one that starts them
        os.sched_setaffinity(0, cores)
        return
    pinned: set[int] = set()
    while new := {int(task.name) for task in TASKS.iterdir()} - pinned:
        for task in new:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(task, cores)
        pinned |= new


def keep_standard_output() -> BinaryIO:
    """Returns standard output as a file that answers alone are written to.

    From then on goes to standard error what Python, a driver or a library writes to standard output.
    """
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    return open(own, "wb", closefd=False)


def advise_huge_pages(memory: npt.NDArray[np.uint8]) -> None:
    """Asks the kernel for large pages (madvise(2)), of which the first writes fault in 512 times fewer.

    Only advice: a kernel without them, or memory that is a device's, refuses, and nothing changes.
    """
    start = -(-memory.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    length = memory.ctypes.data + memory.nbytes - start
    if length > 0:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
