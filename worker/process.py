"""What binds a worker to its machine: dies with its parent, runs on its own cores. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal

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
    """Keeps all threads of this process, also those of the driver, on the given cores."""
    os.sched_setaffinity(0, cores)
