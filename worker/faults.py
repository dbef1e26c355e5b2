"""Faults of the machine, not of the program, as sentences: a full disk, too few descriptors, no memory."""

from __future__ import annotations

import errno
import os
import re

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
# What the dynamic linker says where a library's file can't be opened or mapped; NumPy says it in many lines.
NO_MEMORY = re.compile(r"failed to map segment|[Cc]annot allocate")
NO_DESCRIPTOR = re.compile(r"Error 24|Too many open files")


def fault_sentence(error: BaseException) -> str | None:
    """Describes a fault of the machine, and says what helps; None for a fault of the program."""
    if isinstance(error, MemoryError):
        return f"out of memory{f': {error}' if str(error) else ''}; {HINTS[errno.ENOMEM]}"
    if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
        return f"no thread can be started; {HINTS[errno.EAGAIN]}"
    if isinstance(error, ImportError):
        return _import_sentence(str(error))
    if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] != "zmq":
        return None
    number = getattr(error, "errno", None)
    if number is None:
        return str(error)  # one of ours, which is a sentence already
    what = (getattr(error, "strerror", None) or str(error)).rstrip(".")
    text = ": ".join([*(f"{os.fsdecode(name)!r:.300}" for name in _names(error)), what])
    return f"{text}; {HINTS[number]}" if number in HINTS else text


def _import_sentence(text: str) -> str | None:
    for pattern, number in ((NO_MEMORY, errno.ENOMEM), (NO_DESCRIPTOR, errno.EMFILE)):
        line = next(filter(pattern.search, text.splitlines()), None)
        if line is not None:
            return f"a library can't be loaded: {line.strip()}; {HINTS[number]}"
    return None


def _names(error: BaseException) -> list[str | bytes]:
    found = (getattr(error, "filename", None), getattr(error, "filename2", None))
    return [name for name in found if isinstance(name, (str, bytes)) and name]
