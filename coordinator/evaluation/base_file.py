"""llama.cpp's files of a base model's log probabilities, with which another model's are compared.

All little-endian: `_logits_`, then int32 context length, vocabulary size and number of chunks; the tokens of
all chunks as int32; then, for each scored token of each chunk in turn, float32 scale and float32 least log
probability, and for each token of the vocabulary a uint16 (with one of padding where their number is odd)
that says how many scales its log probability lies above the least. Nothing lies more than 16 below the most
likely (llama.cpp, tools/perplexity).
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.batches.errors import InputError
from tplaunch.coordinator.evaluation.chunks import MIN_LENGTH, Chunks
from tplaunch.coordinator.serving.request import Floats

MAGIC = b"_logits_"
HEADER = struct.Struct("<8s3i")
SCALES = 4  # places of a uint16 that scale and least log probability take
SPAN = 16  # what is less likely by this logarithm counts as just as unlikely
STEPS = 65535
MAX_VOCABULARY = 1 << 24
MAX_TOKENS = 1 << 30
SPARE_BYTES = 64_000_000  # that a disk keeps


def num_values(vocabulary_size: int) -> int:
    """The number of uint16 that a scored token takes."""
    return SCALES + vocabulary_size + vocabulary_size % 2


def quantized(logits: Floats) -> npt.NDArray[np.uint16]:
    """Returns a row of logits [vocabulary] as such a file has its log probabilities."""
    highest = logits.max()
    lowest = max(np.float32(logits.min()), np.float32(highest - np.float32(SPAN)))
    log_sum = np.float32(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
    scale = np.float32((highest - lowest) / np.float32(STEPS))
    found = np.zeros(num_values(logits.size), "<u2")
    found[:SCALES] = np.array([scale, lowest - highest - log_sum], "<f4").view("<u2")
    if scale > 0:
        steps = np.rint(np.maximum(logits - lowest, 0) * (np.float32(1) / scale))
        found[SCALES : SCALES + logits.size] = np.minimum(steps, STEPS)
    return found


def restored(values: npt.NDArray[np.uint16], vocabulary_size: int) -> Floats:
    """Returns the log probabilities [vocabulary] of a scored token's values."""
    scale, least = np.ascontiguousarray(values[:SCALES]).view("<f4")
    found: Floats = values[SCALES : SCALES + vocabulary_size].astype(np.float32) * scale + least
    return found


class BaseFile:
    """An open file: the tokens of its chunks, and the log probabilities of each scored token."""

    def __init__(self, path: Path) -> None:
        """Raises InputError."""
        self._name = str(path)
        try:
            with path.open("rb") as file:
                header, size = file.read(HEADER.size), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror}") from error
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise InputError(
                f"{path} is no file of log probabilities: it does not begin with {MAGIC.decode()}"
            )
        _, self.length, self.vocabulary_size, count = HEADER.unpack(header)
        self._check(self.length, count, size)
        tokens = np.memmap(path, "<i4", "r", HEADER.size, (count * self.length,))
        wrong = tokens[(tokens < 0) | (tokens >= self.vocabulary_size)]
        if wrong.size:
            raise InputError(
                f"{path} has the token {wrong[0]} in a vocabulary of {self.vocabulary_size}: it is damaged"
            )
        self.tokens: list[int] = tokens.tolist()
        shape = (count, self.chunks(None).num_scored, num_values(self.vocabulary_size))
        self._values = np.memmap(path, "<u2", "r", HEADER.size + 4 * len(self.tokens), shape)

    def chunks(self, begin: int | None, most: int | None = None) -> Chunks:
        """Returns its chunks, at most so many. begin: the token that stands before each."""
        count = len(self.tokens) // self.length
        return Chunks(self.tokens[: self.length * min(count, most or count)], self.length, begin)

    def _check(self, length: int, count: int, size: int) -> None:
        if not (
            length >= MIN_LENGTH
            and 0 < self.vocabulary_size <= MAX_VOCABULARY
            and count > 0
            and length * count <= MAX_TOKENS
        ):
            raise InputError(
                f"{self._name} says that it has {count} chunks of {length} tokens of a vocabulary of"
                f" {self.vocabulary_size}, which can't be: it is damaged"
            )
        needed = file_bytes(length, self.vocabulary_size, count)
        if size != needed:
            raise InputError(
                f"{self._name} has {size} bytes, and {count} chunks of {length} tokens take {needed}:"
                f" it is {'cut off' if size < needed else 'damaged'}"
            )

    def log_probs(self, chunk: int, index: int) -> Floats:
        """The log probabilities [vocabulary] from which a scored token was to follow. Raises InputError."""
        found = restored(self._values[chunk, index], self.vocabulary_size)
        if not np.isfinite(found[0]) or not np.isfinite(found.max()):
            raise InputError(f"{self._name}: token {index} of chunk {chunk} has no numbers: it is damaged")
        return found


def file_bytes(length: int, vocabulary_size: int, count: int) -> int:
    """The size of a file with so many chunks of so many tokens."""
    return (
        HEADER.size
        + 4 * length * count
        + 2 * num_values(vocabulary_size) * count * (length - 1 - length // 2)
    )


class BaseWriter:
    """A file that is being written, its rows in any order."""

    def __init__(self, values: npt.NDArray[np.uint16]) -> None:
        self._values = values

    def take_row(self, chunk: int, index: int, logits: Floats) -> None:
        """Writes the logits [vocabulary] from which a scored token was to follow."""
        self._values[chunk, index] = quantized(logits)


@contextmanager
def writing_base(path: Path, chunks: Chunks, vocabulary_size: int) -> Iterator[BaseWriter]:
    """Yields what writes the file, which has its name only when it is whole. Raises InputError."""
    needed = file_bytes(chunks.length, vocabulary_size, len(chunks))
    check_room(path.parent, needed, f"--kl-base {path}")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("xb") as file:
                file.write(HEADER.pack(MAGIC, chunks.length, vocabulary_size, len(chunks)))
                file.write(np.array(chunks.tokens, "<i4").tobytes())
                file.truncate(needed)
            shape = (len(chunks), chunks.num_scored, num_values(vocabulary_size))
            values = np.memmap(part, "<u2", "r+", HEADER.size + 4 * len(chunks.tokens), shape)
            yield BaseWriter(values)
            values.flush()
            part.replace(path)
        except OSError as error:
            raise InputError(f"--kl-base {path} can't be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises InputError where a disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    if needed > free:
        raise InputError(
            f"{what} takes {needed / 1e9:.1f} GB, and {folder} has room for {max(0, free) / 1e9:.1f} GB;"
            " give --chunks, or another place"
        )
