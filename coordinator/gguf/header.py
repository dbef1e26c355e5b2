"""Reads a GGUF file's header: metadata, and where each tensor lies. Every count is checked before it is used.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The gguf package's reader makes an
array per token and per field, which takes seconds for a large vocabulary, and trusts the counts it reads;
so the header is read here, and the package is used to write files.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tplaunch.coordinator.gguf.origin import TensorInfo, file_hash, without_leading_ones
from tplaunch.coordinator.gguf.paths import path_fault
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.model.checks import ModelError

VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_TENSOR_NAME_BYTES = 64  # says the format
MIN_KEY_BYTES, MIN_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 4 + 8
# No model comes near these, so that a header can't ask for more memory than a machine has.
MAX_KEYS, MAX_TENSORS = 1 << 16, 200_000
MAX_HEADER_BYTES = 1 << 27
MAX_ITEMS = 1 << 22  # of all lists together: a token, its score, its type and a merge are one each

STRING, ARRAY = 8, 9
SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
    6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
SCALAR_DTYPES = {kind: np.dtype(name) for kind, name in SCALARS.items()}
TYPES_BY_ID = {weight_type.type_id: weight_type for weight_type in WEIGHT_TYPES.values()}


class GgufError(ValueError):
    """The file is not a GGUF file that can be read; the message says why in one sentence."""


@dataclass(frozen=True)
class GgufFile:
    """A file's header. Strings with invalid UTF-8 hold surrogate escapes."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    num_bytes: int
    header_bytes: int  # the header ends here, the tensors come after
    file_hash: str  # of the header and the file's size: tells two files apart without reading the weights


def read_gguf(path: Path) -> GgufFile:
    """Reads the header of one file, which may be a part of a model (coordinator/gguf/parts.py reads all).

    Raises GgufError for what is no GGUF, truncated or inconsistent.
    """
    try:
        fault = path_fault(path)
        if fault is not None:
            raise GgufError(fault)
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes < 24:
                raise GgufError(f"{path} is not a GGUF file: it has {num_bytes} bytes")
            return _read_header(path, file, num_bytes)
    except OSError as error:
        raise GgufError(f"{path} can't be read: {error.strerror}") from error
    except (struct.error, _Cut) as error:
        raise GgufError(f"{path} is damaged or truncated: {error}") from error
    except ModelError as error:
        raise GgufError(f"{path}: {error}") from error


class _Cut(Exception):
    """The file ends before what its header promises."""


def _read_header(path: Path, file: BinaryIO, num_bytes: int) -> GgufFile:
    cursor = _Cursor(file, num_bytes)
    magic = cursor.take(4, "a beginning")
    if magic != b"GGUF":
        raise GgufError(f"{path} is not a GGUF file: it starts with {magic!r}")
    version = cursor.unpack("<I")
    if version not in VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
            raise GgufError(f"{path} is a big-endian GGUF file; only little-endian ones are supported")
        raise GgufError(f"{path} is of GGUF version {version}; supported: {', '.join(map(str, VERSIONS))}")
    num_tensors, num_keys = cursor.count(MIN_TENSOR_BYTES), cursor.count(MIN_KEY_BYTES)
    for count, most, what in ((num_tensors, MAX_TENSORS, "tensors"), (num_keys, MAX_KEYS, "keys")):
        if count > most:
            raise GgufError(f"{path} has {count} {what}; at most {most} are read")
    metadata = _read_metadata(cursor, num_keys)
    tensors, data_start = _read_tensors(cursor, num_tensors, _alignment(metadata))
    _check_extent(path, tensors, data_start, num_bytes)
    file.seek(0)
    header = _Cursor(file, num_bytes).take(cursor.position, "a header")
    return GgufFile(path, metadata, tensors, num_bytes, len(header), file_hash(header, num_bytes))


class _Cursor:
    """A position in the file; reads past the end raise _Cut.

    The file is read, not mapped: touching a map where the file has become shorter ends the process.
    """

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self._file, self._num_bytes, self.position = file, num_bytes, 0
        self._num_items = 0  # of lists, so far

    def take(self, num_bytes: int, what: str) -> bytes:
        if num_bytes > self._num_bytes - self.position:
            raise _Cut(
                f"{what} of {num_bytes} bytes at byte {self.position},"
                f" but the file has {self._num_bytes} bytes"
            )
        if self.position + num_bytes > MAX_HEADER_BYTES:
            raise ModelError(
                f"its header has more than {MAX_HEADER_BYTES >> 20} MiB, and so much is not read"
            )
        data = self._file.read(num_bytes)
        if len(data) < num_bytes:
            raise _Cut(
                f"it had {self._num_bytes} bytes when it was opened, and has become shorter while it was read"
            )
        self.position += num_bytes
        return data

    def unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout), "a number"))[0]

    def count(self, min_bytes: int) -> int:
        """A number of things that take at least `min_bytes` each, so that a wild count is refused at once."""
        value = int(self.unpack("<Q"))
        if value * min_bytes > self._num_bytes - self.position:
            raise _Cut(f"a count of {value} at byte {self.position - 8} is more than the file can hold")
        return value

    def string(self) -> str:
        return self.take(self.count(1), "a text").decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self._array()
        return self._scalars(kind, 1)[0]

    def _array(self) -> list[Any]:
        kind = self.unpack("<I")
        if kind == ARRAY:
            raise _Cut(f"an array of arrays at byte {self.position}")
        count = self.count(8 if kind == STRING else 1)
        self._num_items += count
        if self._num_items > MAX_ITEMS:
            raise ModelError(
                f"its metadata has lists of {self._num_items} items; at most {MAX_ITEMS} are read"
            )
        return [self.string() for _ in range(count)] if kind == STRING else self._scalars(kind, count)

    def _scalars(self, kind: int, count: int) -> list[Any]:
        if kind not in SCALAR_DTYPES:
            raise _Cut(f"a value of the unknown type {kind} at byte {self.position}")
        dtype = SCALAR_DTYPES[kind]
        values: list[Any] = np.frombuffer(self.take(count * dtype.itemsize, "values"), dtype).tolist()
        return values


def _read_metadata(cursor: _Cursor, num_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string()
        if key in metadata:
            raise _Cut(f"the key {key!r:.80} stands twice")
        metadata[key] = cursor.value(cursor.unpack("<I"))
    return metadata


def _alignment(metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment > 1 << 20 or alignment % 8:
        raise _Cut(f"general.alignment is {alignment!r:.40}")
    return alignment


def _read_tensors(cursor: _Cursor, num_tensors: int, alignment: int) -> tuple[dict[str, TensorInfo], int]:
    """The tensors with offsets from the start of the file, and where the first can lie."""
    entries = [_read_tensor(cursor) for _ in range(num_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, shape, type_id, offset in entries:
        if name in tensors:
            raise _Cut(f"the tensor {name!r} stands twice")
        if offset % alignment:
            raise _Cut(f"the tensor {name!r} starts at {offset}, which is no multiple of {alignment}")
        if type_id not in TYPES_BY_ID:
            raise ModelError(
                f"the tensor {name!r} is of type {_type_name(type_id)}, which is not supported;"
                f" supported: {', '.join(sorted(WEIGHT_TYPES))}"
            )
        weight_type = TYPES_BY_ID[type_id]
        nbytes = math.prod(shape[:-1]) * weight_type.row_bytes(shape[-1])
        tensors[name] = TensorInfo(
            name, weight_type.name, without_leading_ones(shape), data_start + offset, nbytes
        )
    return tensors, data_start


def _type_name(type_id: int) -> str:
    from gguf import GGMLQuantizationType  # only to name what is refused: the package takes long to import

    try:
        return GGMLQuantizationType(type_id).name
    except ValueError:
        return f"number {type_id}"


def _read_tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """A scalar is a vector of one number; a tensor of which a dimension is 0 is empty."""
    name = cursor.string()
    num_bytes = len(name.encode("utf-8", "surrogateescape"))
    if num_bytes > MAX_TENSOR_NAME_BYTES:
        raise _Cut(f"a tensor's name of {num_bytes} bytes, {name!r:.80}")
    if not name.isprintable() or not name:
        raise ModelError(f"a tensor is called {name!r}: a name is printable text in UTF-8")
    num_dimensions = cursor.unpack("<I")
    if num_dimensions > MAX_DIMENSIONS:
        raise _Cut(f"the tensor {name!r} has {num_dimensions} dimensions")
    shape = tuple(int(cursor.unpack("<Q")) for _ in range(num_dimensions))[::-1] or (1,)
    return name, shape, cursor.unpack("<I"), cursor.unpack("<Q")


def _check_extent(path: Path, tensors: dict[str, TensorInfo], data_start: int, num_bytes: int) -> None:
    held = [tensor for tensor in tensors.values() if tensor.nbytes]  # an empty one may lie anywhere
    if not held:  # a vocabulary by itself; the model's spec asks for the weights
        return
    held.sort(key=lambda tensor: tensor.offset)
    for first, second in itertools.pairwise(held):
        if first.offset + first.nbytes > second.offset:
            raise GgufError(f"{path} is damaged: the tensors {first.name!r} and {second.name!r} overlap")
    last = held[-1]
    if last.offset + last.nbytes > num_bytes:
        raise GgufError(
            f"{path} is truncated: the tensor {last.name!r} ends at byte {last.offset + last.nbytes},"
            f" but the file has {num_bytes} bytes"
        )
