"""Tells a worker what only its own host knows, in a file of the run's private folder.

A coordinator on another host says what to compute. Where that host's model lies, and the secret by which
the worker proves itself, come from the process that starts it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tplaunch.coordinator.framing import MessageReader, framed
from tplaunch.worker.folders import open_regular

NAME = "place"


@dataclass(frozen=True)
class WorkerPlace:
    """The part of a run that is this host's own business."""

    folder: str  # the run's private one on this host
    address: str = ""  # of this host, where workers of others reach this one; empty for a run on one host
    secret: bytes = b""  # of the run, for a coordinator on another host
    silence_seconds: float = 0.0  # without a connection to that, after which the worker ends by itself
    files: tuple[str, ...] | None = None  # the model's, here; None for those that the coordinator names


def write_place(place: WorkerPlace) -> Path:
    """Writes the file into its folder, for its owner alone; returns its path. Raises OSError."""
    path = Path(place.folder) / NAME
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(framed(place))
    return path


def read_place(path: Path) -> WorkerPlace:
    """Raises OSError, and WireError for a file that is none."""
    with open_regular(path) as file:
        reader = MessageReader((WorkerPlace,))
        found: list[WorkerPlace] = list(reader.feed(file.read()))
    reader.close()
    return found[0]
