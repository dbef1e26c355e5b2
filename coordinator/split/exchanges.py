"""Says what the ranks of a stage exchange in a step, beside the all-reduces of each layer's parts.

Pure arithmetic on counts. Knows no device, no file and no process.
"""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.model.spec import LayerSpec, ModelSpec
from tplaunch.coordinator.split.plan import RankShare, Span


def shares_norm(recurrent: RecurrentSpec, num_ranks: int) -> bool:
    """Tells whether ranks hold parts of a group that is normalised as a whole, and sum its squares."""
    return recurrent.normalises_groups and recurrent.num_groups < num_ranks


def shares_routing(share: RankShare, kinds: Sequence[str]) -> bool:
    """Tells whether one rank says which experts rows go to: devices of unequal kinds round differently.

    kinds: of the devices of all ranks of its stage, of which those that hold experts matter.
    """
    return len({kinds[index] for index in share.routers}) > 1


def num_all_reduces(
    spec: ModelSpec,
    num_ranks: int,
    with_logits: bool,
    with_shared_routing: bool = False,
    stage: Span | None = None,
) -> int:
    """Counts a step's all-reduces, an even number. Without logits it ends in the last layer before those.

    stage: the layers whose ranks, so many, are asked about; None for all.
    """
    if num_ranks == 1:
        return 0
    layers = spec.layers if stage is None else spec.layers[stage.start : stage.stop]
    is_last = stage is None or stage.stop == spec.num_layers
    count = sum(_sums_rows(layer) for layer in layers)
    for layer in layers if with_logits or not is_last else layers[:-1]:
        mixes = layer.attention is not None or layer.recurrent is not None
        num_parts = mixes + layer.has_feed_forward
        count += with_shared_routing and layer.experts is not None
        is_parallel = spec.block.parallel and layer.recurrent is None
        count += min(1, num_parts) if is_parallel else num_parts
        count += layer.recurrent is not None and shares_norm(layer.recurrent, num_ranks)
    return count + count % 2


def _sums_rows(layer: LayerSpec) -> bool:
    """Tells whether ranks exchange sums to normalise queries and keys by whole rows."""
    norm = None if layer.attention is None else layer.attention.head_norm
    return norm is not None and norm.span == "row"
