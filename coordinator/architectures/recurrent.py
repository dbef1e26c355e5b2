"""Reads from a file's metadata which layers are recurrent, and how."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.model.checks import exact_quotient
from tplaunch.coordinator.model.recurrent import RecurrentSpec

MAX_KERNEL = 8  # what the kernels of convolutions hold
MAX_LENGTH = 65536  # of all else that is counted here
KEY_UNIT, MAX_KEY = 16, 256  # what the kernel of recurrences walks


@dataclass(frozen=True)
class RecurrentFeatures:
    """The features in which the recurrent layers of architectures differ."""

    kind: str
    tiled: bool = False  # as in RecurrentSpec


def read_recurrent(
    features: RecurrentFeatures | None, read: MetadataReader, num_layers: int
) -> list[RecurrentSpec | None]:
    """One a layer; None for those that attend."""
    if features is None:
        return [None] * num_layers
    if features.kind == "convolution":
        spec = _short_convolution(read)
        attends = [count > 0 for count in read.integers("attention.head_count_kv", num_layers)]
    else:
        spec = _with_heads(features, read)
        attends = [False] * num_layers if features.kind == "scan" else _attends(read, num_layers)
    return [None if attending else spec for attending in attends]


def _attends(read: MetadataReader, num_layers: int) -> list[bool]:
    """Returns for each layer if it attends: as the file says, or every fourth."""
    if read.has("attention.recurrent_layers"):
        return [not recurrent for recurrent in read.flags("attention.recurrent_layers", num_layers)]
    interval = read.integer("full_attention_interval", 4, low=1)
    return [(layer + 1) % interval == 0 for layer in range(num_layers)]


def _kernel(read: MetadataReader, key: str) -> int:
    return read.integer(key, low=2, high=MAX_KERNEL)


def _short_convolution(read: MetadataReader) -> RecurrentSpec:
    channels = read.integer("embedding_length", low=1, high=MAX_LENGTH)
    return RecurrentSpec("convolution", _kernel(read, "shortconv.l_cache"), channels)


def _with_heads(features: RecurrentFeatures, read: MetadataReader) -> RecurrentSpec:
    """inner_size is that of all values; state_size that of a key."""
    num_heads = read.integer("ssm.time_step_rank", low=1, high=MAX_LENGTH)
    num_groups = read.integer("ssm.group_count", low=1, high=MAX_LENGTH)
    exact_quotient(num_heads, num_groups, "the number of recurrent heads")
    inner = read.integer("ssm.inner_size", low=1, high=MAX_LENGTH)
    key = read.integer("ssm.state_size", low=KEY_UNIT, high=MAX_KEY)
    if key % KEY_UNIT:
        raise read.refuse("ssm.state_size", key, f"a multiple of {KEY_UNIT}")
    return RecurrentSpec(
        features.kind,
        _kernel(read, "ssm.conv_kernel"),
        num_heads,
        num_groups,
        head_length=exact_quotient(inner, num_heads, "the inner size of recurrent layers"),
        state_length=key,
        tiled=features.tiled,
    )
