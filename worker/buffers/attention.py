"""The names of the buffers that attention works in, and the lengths of their rows."""

from __future__ import annotations

from tplaunch.coordinator.model.attention import Latent
from tplaunch.coordinator.model.spec import AttentionSpec
from tplaunch.coordinator.split.plan import LayerShare, padded
from tplaunch.worker.ops.attention import AttentionHeads

QUERY_LATENT, QUERY, ATTENDED = "latent", "latent_query", "latent_attended"  # buffers


def cache_names(layer: int, attention: AttentionSpec) -> tuple[str, str]:
    """The buffers of one layer's keys and values: the same where values are parts of keys."""
    key = f"cache.{layer}.key"
    return key, key if attention.latent is not None else f"cache.{layer}.value"


def share_heads(attention: AttentionSpec, share: LayerShare) -> AttentionHeads:
    """Returns the layout of a rank's heads in a row of qkv."""
    return AttentionHeads(len(share.heads), len(share.kv_heads), attention.key_length, attention.query_stride)


def qkv_length(attention: AttentionSpec, share: LayerShare) -> int:
    """Elements of a row of a layer's queries, keys and values."""
    value_length = 0 if attention.latent is not None else attention.value_length
    return share_heads(attention, share).first_value + len(share.kv_heads) * value_length


def latent_lengths(latent: Latent, num_heads: int) -> dict[str, int]:
    """Elements of a row of each buffer. Kernels may read a tile too many behind the last head."""
    return {
        QUERY_LATENT: padded(latent.query_rank),
        QUERY: padded(num_heads * latent.query_length) + padded(latent.nope_length),
        ATTENDED: padded(num_heads * latent.rank) + padded(1),
    }
