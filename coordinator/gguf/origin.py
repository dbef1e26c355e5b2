"""Names the origin of a model's weights: its files, by hash, and the place of each tensor in them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """The place of a tensor in the model file. shape is rows first: [rows, columns] or [columns].

    Of a file's shape, leading dimensions of 1 are left out: programs write them or drop them.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    nbytes: int
    part: int = 0  # of the model's files, the one that holds it

    @property
    def columns(self) -> int:
        return self.shape[-1]


def without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The same, but not shorter than its columns."""
    return tuple(itertools.dropwhile(lambda length: length == 1, shape[:-1])) + shape[-1:]


@dataclass(frozen=True)
class FilePart:
    """One of a model's files; most models have only one."""

    path: str
    header_bytes: int  # before the tensors


@dataclass(frozen=True)
class Origin:
    """The origin of a model's weights: files, or (without any) the numbers that each worker makes up."""

    parts: tuple[FilePart, ...] = ()
    model_hash: str = ""


def file_hash(header: bytes, num_bytes: int) -> str:
    """Identifies a file by its header and size: quick, and no two models share them by chance."""
    digest = hashlib.sha256(header)
    digest.update(num_bytes.to_bytes(8, "little"))
    return digest.hexdigest()


def model_hash(file_hashes: Sequence[str]) -> str:
    """Identifies a model by the hashes of its files, in their order."""
    return hashlib.sha256(" ".join(file_hashes).encode()).hexdigest()
