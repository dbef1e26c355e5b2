"""A private folder for a run's sockets, where the file system has such and the path is short enough."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.held_folders import held_temporary
from tplaunch.launcher.signals import held
from tplaunch.worker.folders import temporary_parents

PREFIX = "tplaunch-run-"  # of no other folders: those that nobody holds are removed
MAX_SOCKET_PATH = 100  # bytes; the kernel's limit for a Unix socket is 107
LONGEST_NAME = f"{PREFIX}12345678/control"


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Gone at the end, with what is in it; no signal comes in between. Raises RunError without a place."""
    with ExitStack() as stack:
        with held():
            folder = _made(stack)
        yield folder


def _made(stack: ExitStack) -> Path:
    refusals = []
    for parent in temporary_parents():
        fault = _path_fault(parent)
        if fault is not None:
            refusals.append(f"{parent}: {fault}")
            continue
        try:
            with ExitStack() as trial:
                folder = trial.enter_context(held_temporary(PREFIX, parent))
                _check_sockets(folder)
                stack.push(trial.pop_all())
                return folder
        except OSError as error:
            refusals.append(f"{parent}: {error.strerror}")
    raise RunError(
        f"there is no folder for the sockets of a run ({'; '.join(refusals)});"
        " set TMPDIR to a folder that can be written"
    )


def _path_fault(parent: Path) -> str | None:
    if len(os.fsencode(parent / LONGEST_NAME)) > MAX_SOCKET_PATH:
        return "its path is too long for a socket"
    try:
        str(parent).encode()
    except UnicodeEncodeError:
        return "its path is no UTF-8, and ZeroMQ takes no other"
    return None


def _check_sockets(folder: Path) -> None:
    """Raises OSError where the file system has no sockets, as some that are shared with another system."""
    path = folder / "probe"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(os.fsencode(path))
    path.unlink()
