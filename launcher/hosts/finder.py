"""Finds the head's model on a joining host, by hash: any file may have any name, in any of some folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tplaunch.coordinator.gguf.origin import file_hash, model_hash
from tplaunch.coordinator.gguf.parts import PART_NAME
from tplaunch.coordinator.gguf.paths import lasting_path
from tplaunch.launcher.hosts.descriptions import WantedPart
from tplaunch.launcher.hosts.messages import WantedModel
from tplaunch.launcher.hosts.samples import content_sample
from tplaunch.worker.folders import open_regular

MAX_FILES = 10_000  # of folders that are looked through


class ModelError(Exception):
    """The model is not here; one sentence that says what is."""


class ModelFinder(Protocol):
    """Brings the head's model to this host."""

    def find(self, wanted: WantedModel) -> tuple[str, ...]:
        """Returns the paths of the model's files here, in their order. Raises ModelError."""


class FolderFinder:
    """Looks at files that a person has named, and into folders with all that is below them."""

    def __init__(self, files: Sequence[Path], folders: Sequence[Path]) -> None:
        self._files, self._folders = files, folders

    def find(self, wanted: WantedModel) -> tuple[str, ...]:
        """Returns the paths of the model's files. Raises ModelError."""
        if model_hash([part.file_hash for part in wanted.parts]) != wanted.model_hash:
            raise ModelError("the hashes of the head's files are not those of its model")
        found = [self._find(part) for part in wanted.parts]
        if None in found:
            raise ModelError(self._missing(wanted, found.count(None)))
        return tuple(path for path in found if path is not None)

    def _find(self, part: WantedPart) -> str | None:
        return next((lasting_path(path) for path in self._candidates(part) if is_part(path, part)), None)

    def _candidates(self, part: WantedPart) -> Iterator[Path]:
        """Yields files that have the part's size; of one that is named, the other parts of the same model."""
        for file in self._files:
            yield from (path for path in _with_its_parts(file) if _num_bytes(path) == part.num_bytes)
        for folder in self._folders:
            yield from (path for path in _files_below(folder) if _num_bytes(path) == part.num_bytes)

    def _missing(self, wanted: WantedModel, count: int) -> str:
        places = ", ".join(map(str, (*self._files, *self._folders))) or "no place at all"
        which = (
            "its model"
            if len(wanted.parts) == 1
            else f"{count} of the {len(wanted.parts)} files of its model"
        )
        return (
            f"the head runs {wanted.name}, and {which} is not here: nothing with the same hash was found at"
            f" {places}; name the file with --model, or its folder with --model-dir"
        )


def is_part(path: Path, part: WantedPart) -> bool:
    """Tells whether a file is the wanted one, by size, the hash of its header, and a sample of the rest."""
    try:
        with open_regular(path) as file:
            header = file.read(part.header_bytes)
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes != part.num_bytes or file_hash(header, num_bytes) != part.file_hash:
                return False
            return not part.sample or content_sample(file.fileno(), num_bytes) == part.sample
    except OSError:
        return False


def _num_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def _with_its_parts(file: Path) -> Iterator[Path]:
    yield file
    match = PART_NAME.fullmatch(file.name)
    for number in range(1, int(match["count"]) + 1 if match else 0):
        assert match is not None
        yield file.with_name(f"{match['prefix']}-{number:05}-of-{match['count']}.gguf")


def _files_below(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder and below it; links are followed to such, and to no others."""
    root, num_files = folder.resolve(), 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            num_files += 1
            if num_files > MAX_FILES:
                return
            if _is_below(path := Path(parent, name), root):
                yield path


def _is_below(path: Path, root: Path) -> bool:
    """Tells whether a file is in a folder also by its real name: links may lead out of it."""
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # RuntimeError where links lead in a circle
        return False
