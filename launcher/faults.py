"""Faults of the machine, not of the program, as sentences: a full disk, too few descriptors, no memory."""

from __future__ import annotations

import errno
import os
import resource

from tplaunch.launcher.config import RunError
from tplaunch.launcher.streams import StreamError

HINTS = {
    errno.EMFILE: "`ulimit -n` raises how many a process may have",
    errno.ENFILE: "the whole system has no more",
    errno.ENOSPC: "free some space, or name another folder",
    errno.EDQUOT: "free some space, or name another folder",
    errno.EROFS: "name a folder that can be written",
    errno.EFBIG: "`ulimit -f` limits the size of files and of shared memory",
    errno.EAGAIN: "`ulimit -u`, or the container, limits how many processes and threads there may be",
    errno.ENOMEM: "close other programs, or see `ulimit -v`",
}
NO_THREAD = "can't start new thread"  # what Python says of EAGAIN there
# What a run opens: ZeroMQ, and for each rank its log, its socket and what starting it takes.
BASE_DESCRIPTORS, RANK_DESCRIPTORS = 14, 4
USUAL_DESCRIPTORS = 1024


def fault_sentence(error: BaseException) -> str | None:
    """What happened and what helps; None for what is no fault of the machine, but of the program."""
    if isinstance(error, StreamError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}; {HINTS[errno.ENOMEM]}"
    if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
        return f"no thread can be started; {HINTS[errno.EAGAIN]}"
    number = getattr(error, "errno", None)
    if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] != "zmq":
        return None
    what = (getattr(error, "strerror", None) or str(error)).rstrip(".")
    names = [os.fsdecode(name) for name in _names(error)]
    text = ": ".join([*(f"{name!r:.300}" for name in names), what])
    hint = HINTS.get(number) if isinstance(number, int) else None
    return f"{text}; {hint}" if hint else text


def _names(error: BaseException) -> list[str | bytes]:
    found = (getattr(error, "filename", None), getattr(error, "filename2", None))
    return [name for name in found if isinstance(name, (str, bytes)) and name]


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
            f" opened: {error.strerror}; {HINTS.get(error.errno or 0, 'the system has no more')}"
        ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
