"""Keeps a rank that computes on one core on one that no other process has to itself.

Each launcher deals out the cores that it may use, and knows nothing of others: two runs on one machine would
all begin with its first core. Linux only, as the other business with cores.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tplaunch.worker.process import pin

PROCESSES = Path("/proc")
MAX_TRIES, TRY_SECONDS = 100, 0.01  # to be the only one that chooses; who holds the lock needs milliseconds


def pin_to_one(cores: Sequence[int]) -> None:
    """Keeps this process on one of these cores, the first of those that the fewest processes have alone."""
    with _one_at_a_time():
        taken = cores_taken()
        pin([min(cores, key=lambda core: taken[core])])


def cores_taken(processes: Path = PROCESSES) -> Mapping[int, int]:
    """Counts the other processes that may run on one core only, by that core; not those of the kernel.

    processes: a folder as proc(5) describes; empty where it is missing, as in some sandboxes.
    """
    taken: Counter[int] = Counter()
    with contextlib.suppress(OSError):
        pids = [int(entry.name) for entry in processes.iterdir() if entry.name.isdecimal()]
        for pid in pids:
            with contextlib.suppress(OSError):  # it has ended
                cores = os.sched_getaffinity(pid)
                if len(cores) == 1 and pid != os.getpid() and _is_program(processes / str(pid)):
                    taken.update(cores)
    return taken


def _is_program(process: Path) -> bool:
    """Tells whether it has a command line, which threads of the kernel lack, and what has ended."""
    with (process / "cmdline").open("rb") as file:
        return file.read(1) != b""


@contextlib.contextmanager
def _one_at_a_time(sleep: Callable[[float], object] = time.sleep) -> Iterator[None]:
    """Has runs that start at the same moment choose one after another, where a file can be locked.

    The lock is of this module's own file, so that none is left behind; it ends with the process.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            file = stack.enter_context(Path(__file__).open("rb"))
            for _ in range(MAX_TRIES):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    sleep(TRY_SECONDS)
        yield
