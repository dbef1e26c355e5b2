"""Finds a model's files by hash below the folders that a user has named, whatever they are called there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from tplaunch.coordinator.gguf.origin import FilePart, file_hash
from tplaunch.launcher.hosts.fetching.facts import ModelFacts, PartFacts
from tplaunch.worker.folders import open_regular

MAX_ENTRIES = 200_000  # of all folders: enough for any collection of models, and looked at in seconds
SUFFIX = ".gguf"


def find_model(facts: ModelFacts, folders: Sequence[Path]) -> tuple[FilePart, ...] | None:
    """Returns the model's files as they lie in the folders; None where one is in none of them.

    Only headers are read, of files with the right size. Links are followed where they stay in their folder.
    """
    by_size: dict[int, list[int]] = {}
    for number, part in enumerate(facts.parts):
        by_size.setdefault(part.num_bytes, []).append(number)
    found: dict[int, FilePart] = {}
    for path, num_bytes in _files(folders):
        for number in by_size.get(num_bytes, ()):
            if number not in found and _is_part(path, facts.parts[number]):
                found[number] = FilePart(str(path), facts.parts[number].header_bytes)
        if len(found) == len(facts.parts):
            return tuple(found[number] for number in range(len(found)))
    return None


def _files(folders: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    """Yields the real paths and sizes of the files that may be models."""
    num_entries = 0
    for folder in folders:
        root = folder.resolve()
        for parent, _, names in os.walk(root):
            num_entries += 1 + len(names)
            if num_entries > MAX_ENTRIES:
                return
            for name in sorted(names):
                path = Path(parent, name)
                if name.lower().endswith(SUFFIX) and (size := _size_below(path, root)) is not None:
                    yield path.resolve(), size


def _size_below(path: Path, root: Path) -> int | None:
    """Returns the bytes of a file; None for what is none, or leads out of the folder."""
    try:
        real = path.resolve(strict=True)
        found = real.stat()
    except (OSError, RuntimeError):  # of links in a circle
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) and real.is_relative_to(root) else None


def _is_part(path: Path, part: PartFacts) -> bool:
    try:
        with open_regular(path) as file:
            header = file.read(part.header_bytes)
            num_bytes = os.fstat(file.fileno()).st_size
    except OSError:
        return False
    return file_hash(header, num_bytes) == part.file_hash
