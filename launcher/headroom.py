"""Open files and threads: a process may have few, and a run notices before it starts.

ZeroMQ ends the process, without a chance to clean up, where it can't have what it needs.
"""

from __future__ import annotations

import errno
import os
import resource
import threading

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.worker.faults import fault_sentence

# What a run opens: ZeroMQ, its folder, and for each rank its log, its socket and what starting it takes.
BASE_DESCRIPTORS, RANK_DESCRIPTORS = 15, 4
USUAL_DESCRIPTORS = 1024
NUM_THREADS = 4  # ZeroMQ's two, and some to spare


def check_headroom(num_ranks: int) -> None:
    """Raises RunError where a run of so many ranks can't be started."""
    check_descriptors(num_ranks)
    check_threads()


def check_descriptors(num_ranks: int) -> None:
    """Raises the limit of open files as far as a run needs it. Raises RunError where it stays too low."""
    needed = BASE_DESCRIPTORS + RANK_DESCRIPTORS * num_ranks
    allow_descriptors(USUAL_DESCRIPTORS)
    opened: list[int] = []
    try:
        while len(opened) < needed:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        ranks = f"{num_ranks} rank{'s' * (num_ranks > 1)}"
        raise RunError(
            f"{ranks} need{'s' * (num_ranks == 1)} {needed} more open files, but only {len(opened)} can be"
            f" opened: {error.strerror}; `ulimit -n` raises how many a process may have"
        ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def allow_descriptors(most: int) -> None:
    """Raises the limit of open files to so many, as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_threads() -> None:
    """Raises RunError where no more threads can be started."""
    is_over = threading.Event()
    threads = [threading.Thread(target=is_over.wait, daemon=True) for _ in range(NUM_THREADS)]
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        sentence = fault_sentence(error)
        if sentence is None:
            raise
        raise RunError(sentence) from None
    finally:
        is_over.set()
        for thread in started:
            thread.join()
