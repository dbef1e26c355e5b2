"""Open files: a process may have few, and a run notices before it starts."""

from __future__ import annotations

import os
import resource

from tplaunch.launcher.config import RunError

# What a run opens: ZeroMQ, and for each rank its log, its socket and what starting it takes.
BASE_DESCRIPTORS, RANK_DESCRIPTORS = 14, 4
USUAL_DESCRIPTORS = 1024


def check_descriptors(num_ranks: int) -> None:
    """Raises the limit of open files as far as a run needs it and may. Raises RunError where that is too low.

    ZeroMQ ends the process, without a chance to clean up, where it can't open what it needs.
    """
    needed = BASE_DESCRIPTORS + RANK_DESCRIPTORS * num_ranks
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = USUAL_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, USUAL_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    opened: list[int] = []
    try:
        while len(opened) < needed:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        ranks = f"{num_ranks} rank{'s' * (num_ranks > 1)}"
        raise RunError(
            f"{ranks} need{'s' * (num_ranks == 1)} {needed} more open files, but only {len(opened)} can be"
            f" opened: {error.strerror}; `ulimit -n` raises how many a process may have"
        ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
