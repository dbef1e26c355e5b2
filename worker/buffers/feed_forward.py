"""The buffers of what feed-forward networks activate."""

from __future__ import annotations

from collections.abc import Mapping

from tplaunch.coordinator.model.spec import FeedForwardSpec, ModelSpec
from tplaunch.coordinator.split.plan import RankShare
from tplaunch.coordinator.split.shards import Shard


def activated_name(spec: ModelSpec, feed_forward: FeedForwardSpec) -> str:
    """One for each length: around a rank's own columns must be zeros, where other lengths have theirs."""
    name = f"activated{feed_forward.suffix}"
    return (
        name if len(spec.feed_forward_lengths[feed_forward.suffix]) == 1 else f"{name}.{feed_forward.length}"
    )


def activated_lengths(spec: ModelSpec, share: RankShare, shards: Mapping[str, Shard]) -> dict[str, int]:
    """Elements of a row of each."""
    lengths: dict[str, int] = {}
    for index, layer, _ in share.held(spec):
        if layer.feed_forward is None:
            continue
        name = activated_name(spec, layer.feed_forward)
        shard = shards[f"blk.{index}.ffn_down{layer.feed_forward.suffix}.weight"]
        lengths[name] = max(lengths.get(name, 0), shard.padded_columns)
    return lengths
