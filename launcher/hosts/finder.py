"""Finds the head's model on a joining host, by hash: any file may have any name, in any of some folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tplaunch.coordinator.gguf.origin import file_hash, model_hash
from tplaunch.coordinator.gguf.parts import PART_NAME
from tplaunch.coordinator.gguf.paths import Stamp, lasting_path
from tplaunch.launcher.hosts.descriptions import WantedPart, cut
from tplaunch.launcher.hosts.messages import WantedModel
from tplaunch.launcher.hosts.samples import content_sample
from tplaunch.worker.folders import open_regular

MAX_FILES = 10_000  # of folders that are looked through
MAX_SHOWN, MAX_PLACES = 3, 1000  # places in a sentence, and characters of these


class ModelError(Exception):
    """The model is not here; one sentence that says what is."""


class ModelFinder(Protocol):
    """Brings the head's model to this host."""

    def find(self, wanted: WantedModel) -> tuple[Stamp, ...]:
        """Returns the model's files here, in their order, as they are now. Raises ModelError."""


class FolderFinder:
    """Looks at files that a person has named, and into folders with all that is below them."""

    def __init__(self, files: Sequence[Path], folders: Sequence[Path]) -> None:
        self._files, self._folders = files, folders

    def find(self, wanted: WantedModel) -> tuple[Stamp, ...]:
        """Returns the model's files, as they are now. Raises ModelError."""
        if model_hash([part.file_hash for part in wanted.parts]) != wanted.model_hash:
            raise ModelError("the hashes of the head's files are not those of its model")
        found = [self._find(part) for part in wanted.parts]
        if None in found:
            raise ModelError(self._missing(wanted, found.count(None)))
        return tuple(stamp for stamp in found if stamp is not None)

    def _find(self, part: WantedPart) -> Stamp | None:
        for path in self._candidates(part):
            with suppress(OSError):
                stamp = Stamp.of(lasting_path(path))  # before its content is looked at
                if is_part(path, part):
                    return stamp
        return None

    def _candidates(self, part: WantedPart) -> Iterator[Path]:
        """Yields files that have the part's size; of one that is named, the other parts of the same model."""
        for file in self._files:
            yield from (path for path in _with_its_parts(file) if _num_bytes(path) == part.num_bytes)
        for folder in self._folders:
            yield from (path for path in _files_below(folder) if _num_bytes(path) == part.num_bytes)

    def _missing(self, wanted: WantedModel, count: int) -> str:
        places = [str(path) for path in (*self._files, *self._folders)]
        shown = cut(", ".join(places[:MAX_SHOWN]), MAX_PLACES) or "no place at all"
        more = f" and {len(places) - MAX_SHOWN} more" if len(places) > MAX_SHOWN else ""
        which = (
            "its model"
            if len(wanted.parts) == 1
            else f"{count} of the {len(wanted.parts)} files of its model"
        )
        return (
            f"the head runs {wanted.name}, and {which} is not here: nothing with the same hash was found at"
            f" {shown}{more}; name the file with --model, or its folder with --model-dir"
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
