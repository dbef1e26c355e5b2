"""Tells a worker what only its own host knows, in a file without a name that it inherits.

A coordinator on another host says what to compute. Where that host's model lies, and the secret by which
the worker proves itself, come from the process that starts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tplaunch.coordinator.framing import HEADER, MAX_MESSAGE_BYTES, MessageReader, framed
from tplaunch.coordinator.wire import WireError

NAME = "place"


@dataclass(frozen=True)
class WorkerPlace:
    """The part of a run that is this host's own business."""

    folder: str  # the run's private one on this host
    address: str = ""  # of this host, where workers of others reach this one; empty for a run on one host
    secret: bytes = b""  # of the run, for a coordinator on another host
    silence_seconds: float = 0.0  # without a connection to that, after which the worker ends by itself
    files: tuple[str, ...] | None = None  # the model's, here; None for those that the coordinator names


@contextmanager
def written_place(place: WorkerPlace) -> Iterator[int]:
    """Gives a descriptor of what is written, for processes that are started within. Raises OSError.

    The file has no name any more: it holds a secret, and whoever is killed can't remove it.
    """
    path = Path(place.folder) / NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        path.unlink()
        with open(descriptor, "wb", closefd=False) as file:
            file.write(framed(place))
        yield descriptor
    finally:
        os.close(descriptor)


def read_place(descriptor: int) -> WorkerPlace:
    """Closes the descriptor. Raises OSError, and WireError for what is no place."""
    try:
        size = min(os.fstat(descriptor).st_size, HEADER.size + MAX_MESSAGE_BYTES)
        content = os.pread(descriptor, size, 0)  # at no position of the file: others read it, too
    finally:
        os.close(descriptor)
    reader = MessageReader((WorkerPlace,))
    found: list[WorkerPlace] = list(reader.feed(content))
    reader.close()
    if len(found) != 1:
        raise WireError(f"{len(found)} places, where one is needed")
    return found[0]
