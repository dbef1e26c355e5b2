"""The mapped model file: slices of tensors as bytes, so that a rank touches only its own part."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coordinator.model import WEIGHT_TYPES, TensorInfo, model_hash
from coordinator.plan import Shard
from worker.device import Device
from worker.formats import FORMATS
from worker.stacks import Stack
from worker.weight_source import WeightSource

Bytes = npt.NDArray[np.uint8]
CHUNK_BYTES = 8 << 20  # of a tensor repacked at a time: bounds what loading needs beyond the shard


class ModelFile(WeightSource):
    """A GGUF file, mapped. Its header was read by the coordinator; here only tensors are."""

    def __init__(self, path: Path, header_bytes: int) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self.model_hash = model_hash(self._map, header_bytes)
        self._bytes: Bytes = np.frombuffer(self._map, np.uint8)

    def rows(self, tensor: TensorInfo) -> Bytes:
        row_bytes = WEIGHT_TYPES[tensor.type].row_bytes(tensor.columns)
        return self._bytes[tensor.offset : tensor.offset + tensor.nbytes].reshape(-1, row_bytes)


def load_stack(
    device: Device, weights: WeightSource, stack: Stack, tensors: Mapping[str, TensorInfo]
) -> Iterator[int]:
    """Repacks a stack's shards into its buffer on the device, in chunks; yields the device bytes of each."""
    columns = stack.padded_columns
    parts = [shard_rows(weights, shard, tensors[shard.tensor]) for shard in stack.shards]
    if stack.is_bias:
        parts = [np.concatenate(parts, axis=1)]
    weight_format = FORMATS[stack.type]
    offsets = weight_format.plane_offsets(stack.rows, columns)
    first_row = 0
    for rows in parts if columns else ():
        step = max(1, CHUNK_BYTES // rows.shape[1])
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            planes = weight_format.repack(chunk, columns)
            for plane, plane_start in zip(planes, offsets, strict=False):
                row_bytes = plane.size // len(chunk)
                device.write(stack.name, plane_start + (first_row + start) * row_bytes, plane)
            yield sum(plane.size for plane in planes)
        first_row += len(rows)


def shard_rows(weights: WeightSource, shard: Shard, tensor: TensorInfo) -> Bytes:
    """What a rank holds of a tensor, as the file has it [rows, row bytes]; not copied."""
    weight_type = WEIGHT_TYPES[shard.type]
    first, last = weight_type.row_bytes(shard.columns.start), weight_type.row_bytes(shard.columns.stop)
    return weights.rows(tensor)[shard.rows.start : shard.rows.stop, first:last]
