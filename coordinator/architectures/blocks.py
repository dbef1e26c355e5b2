"""Tells a file's layers from its multi-token-prediction blocks, and finds tensors that layers don't use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.gguf.origin import TensorInfo

MAX_LAYERS = 2048  # a damaged file is refused before it costs time and memory


def count_layers(read: MetadataReader) -> tuple[int, int]:
    """Counts the layers, and the layers with the multi-token-prediction blocks behind them."""
    num_blocks = read.integer("block_count", low=1, high=MAX_LAYERS)
    return num_blocks - read.integer("nextn_predict_layers", 0, high=num_blocks - 1), num_blocks


def _prefix(name: str) -> str:
    """The block of a tensor: "blk.1." of "blk.1.attn_q.weight"."""
    return name[: name.find(".", len("blk.")) + 1]


def unused_of_blocks(
    tensors: Mapping[str, TensorInfo], num_layers: int, num_blocks: int, in_layers: Sequence[str]
) -> tuple[str, ...]:
    """Returns the tensors that no layer reads: of multi-token prediction, of all `in_layers`, and duplicates.

    The scales by which NVFP4 files round activations to four bits are among them: they are not rounded here.
    """
    predicting = {f"blk.{index}." for index in range(num_layers, num_blocks)}
    unused = [name for name in tensors if name.endswith(".input_scale") or _prefix(name) in predicting]
    unused += [f"blk.{index}.{name}" for index in range(num_layers) for name in in_layers]
    for index in range(num_layers):
        fused, parts = f"blk.{index}.ssm_in.weight", f"blk.{index}.attn_qkv.weight"
        unused += [fused] if fused in tensors and parts in tensors else []
    return tuple(unused)
