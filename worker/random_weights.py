"""Made-up weights: a model of any size at once, for measurements. The same on every rank and in every run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from coordinator.model import TensorInfo
from coordinator.weight_types import WEIGHT_TYPES, WeightType
from worker.weight_source import WeightSource

Bytes = npt.NDArray[np.uint8]
DEVIATION = 0.02  # of the weights, around 0: activations stay small through any number of layers
# Where the float16 scales of a block lie, and the standard deviation of random quants in units of them.
# Minima, which are added in some types and subtracted in others, take the mean away.
SCALES: dict[str, tuple[tuple[int, float], ...]] = {
    "Q4_0": ((0, 4.6),),
    "Q4_1": ((0, 4.6), (2, -0.615)),
    "Q5_0": ((0, 9.23),),
    "Q5_1": ((0, 9.23), (2, -0.596)),
    "Q8_0": ((0, 73.9),),
    "Q2_K": ((80, 13.9), (82, 9.27)),
    "Q3_K": ((108, 43.3),),
    "Q4_K": ((0, 258), (2, 34.5)),
    "Q5_K": ((0, 528), (2, 33.9)),
    "Q6_K": ((208, 1366),),
}
MAX_START = 997  # blocks: tensors begin at different places of the noise


class RandomWeights(WeightSource):
    """One stretch of random blocks per weight type; a tensor's rows are overlapping windows of it.

    Row i begins at block i, so a tensor of gigabytes takes as many bytes as one of its columns has blocks.
    Vectors, which are norms, are all ones.
    """

    model_hash = ""

    def __init__(self, tensors: Iterable[TensorInfo]) -> None:
        num_blocks: dict[str, int] = {}
        for tensor in tensors:
            num_blocks[tensor.type] = max(num_blocks.get(tensor.type, 0), MAX_START + _num_blocks(tensor))
        self._noise = {name: random_blocks(WEIGHT_TYPES[name], count) for name, count in num_blocks.items()}

    def rows(self, tensor: TensorInfo) -> Bytes:
        if len(tensor.shape) == 1:
            assert tensor.type == "F32", f"a vector of type {tensor.type}"
            return np.ones((1, tensor.columns), np.float32).view(np.uint8)
        weight_type = WEIGHT_TYPES[tensor.type]
        row_bytes = weight_type.row_bytes(tensor.columns)
        start = zlib.crc32(tensor.name.encode()) % MAX_START * weight_type.block_bytes
        windows = np.lib.stride_tricks.sliding_window_view(self._noise[tensor.type][start:], row_bytes)
        rows: Bytes = windows[:: weight_type.block_bytes][: tensor.nbytes // row_bytes]
        return rows


def _num_blocks(tensor: TensorInfo) -> int:
    """From the first block of the first row to the last one of the last row."""
    weight_type = WEIGHT_TYPES[tensor.type]
    row_bytes = weight_type.row_bytes(tensor.columns)
    return tensor.nbytes // row_bytes + row_bytes // weight_type.block_bytes


def random_blocks(weight_type: WeightType, count: int) -> Bytes:
    """So many valid blocks, end to end: random quants, finite scales."""
    random = np.random.Generator(np.random.PCG64(weight_type.type_id))
    if weight_type.name in ("F32", "F16", "BF16"):
        values = (random.standard_normal(count, np.float32) * np.float32(DEVIATION)).astype("<f4")
        if weight_type.name == "F16":
            return values.astype("<f2").view(np.uint8)
        stored = values.view("<u2")[1::2] if weight_type.name == "BF16" else values
        return np.ascontiguousarray(stored).view(np.uint8)
    blocks = random.integers(0, 256, (count, weight_type.block_bytes), np.uint8)
    for offset, deviation in SCALES[weight_type.name]:
        scale = np.array([DEVIATION / deviation], "<f2")
        blocks[:, offset : offset + 2] = scale.view(np.uint8)
    return blocks.reshape(-1)
