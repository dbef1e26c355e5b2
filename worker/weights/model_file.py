"""The mapped model files: slices of tensors as bytes, so that a rank touches only its own share."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.gguf.origin import FilePart, TensorInfo, file_hash, model_hash
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.split.shards import Shard
from tplaunch.worker.buffers.stacks import Stack
from tplaunch.worker.device import Device
from tplaunch.worker.folders import open_regular
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.weights.source import WeightSource

Bytes = npt.NDArray[np.uint8]
CHUNK_BYTES = 4 << 20  # of a shard repacked at a time: bounds what loading needs beyond it


class ModelFile(WeightSource):
    """A model's GGUF files, mapped. Their headers were read by the coordinator; here only tensors are."""

    def __init__(self, parts: Sequence[FilePart]) -> None:
        maps = [mapped(Path(part.path)) for part in parts]
        hashes = [
            file_hash(data[: part.header_bytes], len(data)) for data, part in zip(maps, parts, strict=True)
        ]
        self.model_hash = model_hash(hashes)
        self._bytes: list[Bytes] = [np.frombuffer(data, np.uint8) for data in maps]

    def rows(self, tensor: TensorInfo) -> Bytes:
        row_bytes = WEIGHT_TYPES[tensor.type].row_bytes(tensor.columns)
        data = self._bytes[tensor.part]
        return data[tensor.offset : tensor.offset + tensor.nbytes].reshape(-1, row_bytes)


def mapped(path: Path) -> mmap.mmap:
    with open_regular(path) as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def load_stack(
    device: Device, weights: WeightSource, stack: Stack, tensors: Mapping[str, TensorInfo]
) -> Iterator[int]:
    """Repacks a stack's shards into its buffer on the device, in chunks; yields the device bytes of each.

    The file's bytes are copied once, to where the device wants them; several stacks may be loaded at once.
    """
    columns = stack.padded_columns
    parts = [rows for shard in stack.shards for rows in shard_rows(weights, shard, tensors[shard.tensor])]
    if stack.is_vector:
        parts = [np.concatenate(parts, axis=1)] if parts else []
    weight_format = FORMATS[stack.type]
    if weight_format.codebook_bytes and stack.nbytes:
        device.fill(stack.name, [(0, weight_format.codebook_bytes)], weight_format.write_codebook)
    offsets = weight_format.plane_offsets(stack.rows, columns)
    row_bytes = [columns // weight_format.tile_columns * nbytes for nbytes in weight_format.plane_bytes]
    step = max(1, CHUNK_BYTES // max(1, sum(row_bytes)))
    first_row = 0
    for chunk in _chunks(parts if columns else [], step):
        places = [
            (plane_start + first_row * nbytes, len(chunk) * nbytes)
            for plane_start, nbytes in zip(offsets, row_bytes, strict=False)
        ]
        repack = functools.partial(weight_format.repack_into, raw=chunk, columns=columns)
        device.fill(stack.name, places, repack)
        yield sum(nbytes for _, nbytes in places)
        first_row += len(chunk)


def _chunks(parts: Sequence[Bytes], step: int) -> Iterator[Bytes]:
    """The parts' rows, at most `step` at a time. Parts far smaller are joined, which copies them."""
    few: list[Bytes] = []
    for rows in filter(len, parts):
        if few and sum(map(len, few)) + len(rows) > step // 8:
            yield _joined(few)
            few = []
        if len(rows) <= step // 8:
            few.append(rows)
        else:
            yield from (rows[start : start + step] for start in range(0, len(rows), step))
    if few:
        yield _joined(few)


def _joined(parts: Sequence[Bytes]) -> Bytes:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def shard_rows(weights: WeightSource, shard: Shard, tensor: TensorInfo) -> list[Bytes]:
    """Returns a rank's rows of a tensor, one array per expert as the file has it [rows, row bytes].

    Rows are not copied, except those that are widened to the shard's type, transposed or repeated.
    """
    starts = [expert * shard.expert_rows for expert in range(shard.experts.start, shard.experts.stop)]
    if shard.transposed:
        return [_transposed(weights, shard, tensor, start) for start in starts]
    weight_type = WEIGHT_TYPES[shard.type]
    first, last = weight_type.row_bytes(shard.columns.start), weight_type.row_bytes(shard.columns.stop)
    is_widened = shard.type != tensor.type
    rows = weights.floats(tensor).view(np.uint8) if is_widened else weights.rows(tensor)
    rows = rows.reshape(1, -1) if shard.is_column else rows
    if shard.repeats != 1:
        return [rows[:, first:last].view(np.float32).repeat(shard.repeats, axis=1).view(np.uint8)]
    return [rows[start + shard.rows.start : start + shard.rows.stop, first:last] for start in starts]


def _transposed(weights: WeightSource, shard: Shard, tensor: TensorInfo, start: int) -> Bytes:
    """The part that is one expert's or head's."""
    raw = weights.rows(tensor)[start + shard.columns.start : start + shard.columns.stop]
    held = FORMATS[tensor.type].widen(raw, tensor.columns)[:, shard.rows.start : shard.rows.stop]
    return np.ascontiguousarray(held.T).view(np.uint8)
