"""Reads a model from its GGUF files: one, or the parts of a split model, held against each other.

The names of the parts, and the keys split.no (from 0), split.count and split.tensors.count (of all parts),
are those of https://github.com/ggml-org/llama.cpp/tree/master/tools/gguf-split. The first part has the
metadata; the others have these keys, and may repeat keys of the first.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tplaunch.coordinator.gguf.header import GgufError, GgufFile, read_gguf
from tplaunch.coordinator.gguf.origin import FilePart, Origin, TensorInfo, model_hash
from tplaunch.coordinator.gguf.paths import Stamp, lasting_path, path_fault

NUMBER, COUNT, NUM_TENSORS = "split.no", "split.count", "split.tensors.count"
OF_ONE_FILE = (NUMBER, "general.alignment")  # keys in which the parts of a model may differ
MAX_PARTS = 999  # each is kept open
PART_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class GgufModel:
    """A model's metadata and tensors, over all of its files."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    origin: Origin
    stamps: tuple[Stamp, ...]  # of the files, for whether they change


def read_model(path: Path) -> GgufModel:
    """Reads the headers of a model, of which `path` is the file or any part.

    Raises GgufError for what can't be read, and where parts are missing or don't belong together.
    """
    file, stamp = _read(path)
    if _number(file, COUNT, 1) <= 1:  # 0 in a file that was joined again
        return _joined([file], [stamp])
    found = [(file, stamp) if part == path else _read(part) for part in _part_paths(file)]
    files = [file for file, _ in found]
    _check_parts(files)
    return _joined(files, [stamp for _, stamp in found])


def _read(path: Path) -> tuple[GgufFile, Stamp]:
    """A file's header, and the file as it was before it was read."""
    fault = path_fault(path)
    if fault is not None:
        raise GgufError(fault)
    try:
        stamp = Stamp.of(lasting_path(path))
    except OSError as error:
        raise GgufError(f"{path} can't be read: {error.strerror}") from error
    return read_gguf(path), stamp


def _part_paths(file: GgufFile) -> list[Path]:
    """All parts in their order, by the name of this one."""
    count = _number(file, COUNT)
    if count > MAX_PARTS:
        raise GgufError(f"{file.path} is one of {count} parts of a model; at most {MAX_PARTS} are read")
    match = PART_NAME.fullmatch(file.path.name)
    if match is None or int(match["count"]) != count:
        raise GgufError(
            f"{file.path} is one part of a model of {count} files, but is not named like one: its name should"
            f" end in {_ending(_number(file, NUMBER) + 1, count)}, and so should those of the others"
        )
    paths = [file.path.with_name(match["prefix"] + _ending(part + 1, count)) for part in range(count)]
    missing = next((path for path in paths if not os.path.lexists(path)), None)
    if missing is not None:
        raise GgufError(f"{missing} is missing: the model is split over {count} files, and all are needed")
    return paths


def _ending(number: int, count: int) -> str:
    return f"-{number:05}-of-{count:05}.gguf"


def _number(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise GgufError(f"{file.path}: {key} is {value!r:.40}; a count is needed")
    return value


def _check_parts(files: Sequence[GgufFile]) -> None:
    first = files[0]
    for place, file in enumerate(files):
        number, count = _number(file, NUMBER), _number(file, COUNT, 1)
        if number != place or count != len(files):
            raise GgufError(
                f"{file.path} holds part {number + 1} of {count},"
                f" but is named part {place + 1} of {len(files)}"
            )
        for key in sorted(file.metadata.keys() & first.metadata.keys() - {*OF_ONE_FILE}):
            if file.metadata[key] != first.metadata[key]:
                raise GgufError(
                    f"{file.path} is a part of another model than {first.path.name}: {key:.80} is"
                    f" {file.metadata[key]!r:.40}, not {first.metadata[key]!r:.40}"
                )
    num_tensors, expected = sum(len(file.tensors) for file in files), _number(first, NUM_TENSORS)
    if num_tensors != expected:
        raise GgufError(
            f"{first.path} says that the model has {expected} tensors, but its {len(files)} files hold"
            f" {num_tensors}: they are not all parts of one model"
        )


def _joined(files: Sequence[GgufFile], stamps: Sequence[Stamp]) -> GgufModel:
    tensors: dict[str, TensorInfo] = {}
    for part, file in enumerate(files):
        for name, tensor in file.tensors.items():
            if name in tensors:
                other = files[tensors[name].part]
                raise GgufError(f"the tensor {name!r} stands in {other.path} and in {file.path}")
            tensors[name] = dataclasses.replace(tensor, part=part)
    parts = tuple(FilePart(stamp.path, file.header_bytes) for file, stamp in zip(files, stamps, strict=True))
    origin = Origin(parts, model_hash([file.file_hash for file in files]))
    return GgufModel(files[0].metadata, tensors, origin, tuple(stamps))
