"""The mapped model file: slices of tensors as bytes, so that a rank touches only its own part."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coordinator.model import WEIGHT_TYPES, TensorInfo, model_hash
from coordinator.plan import Shard
from worker.device import Device
from worker.formats import FORMATS
from worker.weight_source import WeightSource

Bytes = npt.NDArray[np.uint8]
CHUNK_BYTES = 4 << 20  # of a shard repacked at a time: bounds what loading needs beyond it


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


def load_shard(
    device: Device, weights: WeightSource, name: str, shard: Shard, tensor: TensorInfo
) -> Iterator[int]:
    """Repacks a shard into the device's buffer `name`, in chunks; yields the device bytes of each.

    The file's bytes are copied once, to where the device wants them; several shards may be loaded at once.
    """
    weight_format, weight_type = FORMATS[shard.type], WEIGHT_TYPES[shard.type]
    first, last = weight_type.row_bytes(shard.columns.start), weight_type.row_bytes(shard.columns.stop)
    rows = weights.rows(tensor)[shard.rows.start : shard.rows.stop, first:last]
    columns = shard.padded_columns
    offsets = weight_format.plane_offsets(len(shard.rows), columns)
    row_bytes = [columns // weight_format.tile_columns * nbytes for nbytes in weight_format.plane_bytes]
    step = max(1, CHUNK_BYTES // max(1, sum(row_bytes)))
    for start in range(0, len(rows) if columns else 0, step):
        chunk = rows[start : start + step]
        places = [
            (plane_start + start * nbytes, len(chunk) * nbytes)
            for plane_start, nbytes in zip(offsets, row_bytes, strict=False)
        ]
        device.fill(name, places, functools.partial(weight_format.repack_into, raw=chunk, columns=columns))
        yield sum(nbytes for _, nbytes in places)
