"""Folders that a process holds as long as it lives: one that nobody holds was left behind, and can go.

flock(2) holds them. The kernel lets go when a process has ended, however that was, also in another container.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tplaunch.launcher.signals import held
from tplaunch.worker.folders import is_own_folder, private_temporary


class FolderGone(Exception):
    """Another process has taken the folder for one that was left behind."""


@contextmanager
def folder_in_use(folder: Path) -> Iterator[None]:
    """Holds a folder; several may. A file system without locks holds none, and removes none.

    Raises FolderGone where it is gone, or about to go.
    """
    descriptor = _open(folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderGone from None
        except OSError:
            pass
        if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise FolderGone
        yield
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FolderGone from None


def remove_unused(folder: Path) -> bool:
    """Removes a folder of this user's that nobody holds; returns whether it did."""
    if not is_own_folder(folder):
        return False
    with suppress(OSError, FolderGone):
        descriptor = _open(folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(descriptor)
        return True
    return False


@contextmanager
def held_temporary(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A private folder, held, and gone at the end with what is in it; no signal comes in between.

    Those that killed processes have left beside it, by the same prefix, go first. Raises OSError.
    """
    folder: Path | None = None
    with ExitStack() as stack:
        try:
            with held():
                folder = _made_and_held(stack, prefix, parent)
            yield folder
        finally:
            if folder is not None:
                with held():
                    shutil.rmtree(folder, ignore_errors=True)


def _made_and_held(stack: ExitStack, prefix: str, parent: Path | None) -> Path:
    while True:
        folder = private_temporary(prefix, parent)
        with suppress(FolderGone):  # another process has come between the two lines
            stack.enter_context(folder_in_use(folder))
            break
    with suppress(OSError):
        for other in folder.parent.glob(f"{prefix}*"):
            if other != folder:
                remove_unused(other)
    return folder
