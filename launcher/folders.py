"""Folders of one run, which are gone when it ends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tplaunch.launcher.signals import held


@contextmanager
def private_folder(root: str | None = None) -> Iterator[str]:
    """A folder of mode 0700 below `root`, or in the temporary directory, that signals don't leave behind."""
    with held():
        folder = tempfile.TemporaryDirectory(prefix="tplaunch-", dir=root)
    try:
        yield folder.name
    finally:
        with held():
            folder.cleanup()
