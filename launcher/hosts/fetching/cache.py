"""The folder of fetched models, and what of it goes: the models that nobody uses, the longest unused first.

Holes in files take no room, so a model counts with what the disk has of it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tplaunch.launcher.held_folders import FolderGone, folder_in_use, remove_unused
from tplaunch.worker.folders import make_private

USUAL_BYTES = 200 * 10**9  # that fetched models may take together
NAME = re.compile("[0-9a-f]{64}")  # of a model's folder: its hash
DISK_BLOCK = 512  # bytes of st_blocks, whatever the file system's own are


@contextmanager
def model_in_use(folder: Path) -> Iterator[None]:
    """Holds a model's folder, which is made if need be, and notes that it was used. Raises OSError."""
    with ExitStack() as stack:
        while True:
            make_private(folder)
            with suppress(FolderGone):  # it was old, and another process is removing it
                stack.enter_context(folder_in_use(folder))
                break
        os.utime(folder)
        yield


def make_room(cache: Path, own: Path, needed_bytes: int, most_bytes: int, spare_bytes: int) -> None:
    """Removes models until so many bytes more fit in most_bytes of all, and leave spare_bytes of the disk.

    own: the folder of the model that needs them. Those that a process uses stay, whatever they take.
    """
    models = [path for path in cache.iterdir() if NAME.fullmatch(path.name)]
    sizes = {path: _disk_bytes(path) for path in models}
    total = sum(sizes.values()) + needed_bytes
    for path in sorted(models, key=_last_used):
        if total <= most_bytes and shutil.disk_usage(cache).free >= needed_bytes + spare_bytes:
            return
        if path != own and remove_unused(path):
            total -= sizes[path]


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _disk_bytes(folder: Path) -> int:
    try:
        return sum(path.stat().st_blocks * DISK_BLOCK for path in folder.iterdir())
    except OSError:
        return 0
