"""Kernels as files: a digest of what follows, the names of kernel and parameters, and object code.

A folder has those of one version for one kind of processor. Code that others may have written is not run, and
folders that nobody uses any more are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from tplaunch.worker.folders import is_own_folder, is_private, open_regular, replace_file

DIGEST_BYTES = 32
MAX_BYTES = 4 << 20  # of a kernel's code
IDENTITY_LENGTH = 32
IDENTITY = re.compile(rf"[0-9a-f]{{{IDENTITY_LENGTH}}}")  # a folder's name
DAY = 24 * 3600.0
KEPT_SECONDS = 30 * DAY  # without use; hosts of different processors may share a home


def read_kernel(path: Path) -> tuple[list[str], bytes] | None:
    """Returns a kernel's parameters and code; None where there is none that is whole, and this user's."""
    with suppress(OSError), open_regular(path) as file:
        if not is_private(os.fstat(file.fileno())):
            return None
        digest, content = file.read(DIGEST_BYTES), file.read(MAX_BYTES)
        if hashlib.sha256(content).digest() == digest:
            names, _, code = content.partition(b"\n")
            name, *parameters = json.loads(names)
            return (parameters, code) if name == path.name else None
    return None


def write_kernel(path: Path, parameters: list[str], code: bytes) -> None:
    """Raises OSError."""
    content = json.dumps([path.name, *parameters]).encode() + b"\n" + code
    replace_file(path, hashlib.sha256(content).digest() + content)


def note_use(folder: Path) -> None:
    """Marks a folder as used, by its time of modification, which is written once a day."""
    with suppress(OSError):  # there is none yet, or it can't be written
        if time.time() - folder.stat().st_mtime > DAY:
            os.utime(folder)


def forget_unused(folder: Path) -> None:
    """Removes the folders beside this one that have not been used for long: those of other versions."""
    with suppress(OSError):
        for other in folder.parent.iterdir():
            if other == folder or not IDENTITY.fullmatch(other.name) or not is_own_folder(other):
                continue
            if time.time() - other.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
