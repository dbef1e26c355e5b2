"""Made-up weights: a model of any size at once, for measurements. The same on every rank and in every run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES, WeightType
from tplaunch.worker.weights.source import WeightSource

Bytes = npt.NDArray[np.uint8]
DEVIATION = 0.02  # of the weights, around 0: activations stay small through any number of layers


def _half(deviation: float) -> bytes:
    """A float16 scale, by the standard deviation of random quants in units of it."""
    return np.array([DEVIATION / deviation], "<f2").tobytes()


# Where the scales of a block lie, and what they are. Minima, which are added in some types and subtracted in
# others, take the mean away. The last ones are an E8M0 and four E4M3.
SCALES: dict[str, tuple[tuple[int, bytes], ...]] = {
    "Q4_0": ((0, _half(4.6)),),
    "Q4_1": ((0, _half(4.6)), (2, _half(-0.615))),
    "Q5_0": ((0, _half(9.23)),),
    "Q5_1": ((0, _half(9.23)), (2, _half(-0.596))),
    "Q8_0": ((0, _half(73.9)),),
    "Q2_K": ((80, _half(13.9)), (82, _half(9.27))),
    "Q3_K": ((108, _half(43.3)),),
    "Q4_K": ((0, _half(258)), (2, _half(34.5))),
    "Q5_K": ((0, _half(528)), (2, _half(33.9))),
    "Q6_K": ((208, _half(1366)),),
    "IQ1_S": ((0, _half(7.2)),),
    "IQ2_XXS": ((0, _half(53.4)),),
    "IQ2_XS": ((0, _half(55.8)),),
    "IQ2_S": ((0, _half(56.4)),),
    "IQ3_XXS": ((0, _half(142)),),
    "IQ3_S": ((0, _half(140)),),
    "TQ1_0": ((52, _half(0.817)),),
    "TQ2_0": ((64, _half(1.12)),),
    "IQ4_NL": ((0, _half(67.2)),),
    "IQ4_XS": ((0, _half(1246)),),
    "MXFP4": ((0, bytes([120])),),
    "NVFP4": ((0, bytes([3, 4, 4, 3])),),
}
DECAY = ".ssm_a"
MAX_START = 997  # blocks: tensors begin at different places of the noise


class RandomWeights(WeightSource):
    """One stretch of random blocks per weight type; a tensor's rows are overlapping windows of it.

    Row i begins at block i, so a tensor of gigabytes takes as many bytes as one of its columns has blocks.
    Vectors, which are norms, are all ones; but what makes recurrent states decay is minus one.
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
            value = -1 if tensor.name.endswith(DECAY) else 1
            return np.full((1, tensor.columns), value, np.float32).view(np.uint8)
        weight_type = WEIGHT_TYPES[tensor.type]
        row_bytes = weight_type.row_bytes(tensor.columns)
        start = zlib.crc32(tensor.name.encode()) % MAX_START * weight_type.block_bytes
        windows = np.lib.stride_tricks.sliding_window_view(self._noise[tensor.type][start:], row_bytes)
        rows: Bytes = windows[:: weight_type.block_bytes][: tensor.nbytes // row_bytes]
        return rows


def _num_blocks(tensor: TensorInfo) -> int:
    """Counts the blocks from the first of the first row to the last of the last row."""
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
    if weight_type.name == "IQ1_M":  # the upper halves of these bytes are pieces of its scale
        pieces = np.frombuffer(_half(7.19), "<u2") >> np.arange(0, 16, 4, dtype=np.uint16) & 15
        blocks[:, 49::2] = blocks[:, 49::2] & 15 | pieces.astype(np.uint8) << 4
    for offset, scale in SCALES.get(weight_type.name, ()):
        blocks[:, offset : offset + len(scale)] = np.frombuffer(scale, np.uint8)
    return blocks.reshape(-1)
