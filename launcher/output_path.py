"""Files that a command will write, looked at before it takes the time to find out what to write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.errors import UsageError
from tplaunch.worker.faults import HINTS


def check_output_path(option: str, path: Path) -> None:
    """Raises UsageError where a file can't be written there, as far as that can be told without writing."""
    try:
        _check(option, path)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise UsageError(f"{option} {path} can't be written: {error.strerror}") from error


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Makes what goes wrong while a checked path is written a failure of the run: a RunError."""
    try:
        yield
    except OSError as error:
        hint = f"; {HINTS[error.errno]}" if error.errno in HINTS else ""
        raise RunError(f"{option} {path} can't be written: {error.strerror or error}{hint}") from error


def _check(option: str, path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"{option} {path}: that is a folder; name a file in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{option} {path}: you may not write there")
