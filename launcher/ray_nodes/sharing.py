"""Shares ranks out over the nodes of a cluster. Pure arithmetic: it knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.errors import UsageError


@dataclass(frozen=True)
class NodeShare:
    """So many ranks on one node."""

    node: str
    num_ranks: int


def share_out(num_devices: Mapping[str, int], own: str, num_ranks: int | None) -> tuple[NodeShare, ...]:
    """Returns who gets how many ranks, this node first, then those with the most devices: few hosts do best.

    num_devices: by node. own: the node on which the head runs; it may have no rank. Raises UsageError.
    """
    total = sum(num_devices.values())
    if not total:
        raise UsageError(
            f"--engine ray: none of the Ray cluster's {len(num_devices)} nodes has a device that --devices"
            " names; `tplaunch devices` says there why, and --devices cpu has their processors compute"
        )
    wanted = min(total, MAX_RANKS) if num_ranks is None else num_ranks
    if wanted > total:
        raise UsageError(
            f"--num-ranks {wanted}: the Ray cluster's {len(num_devices)} nodes have {total} devices"
        )
    shares = [NodeShare(own, min(wanted, num_devices.get(own, 0)))]
    for node in sorted(num_devices.keys() - {own}, key=lambda node: (-num_devices[node], node)):
        count = min(wanted - sum(share.num_ranks for share in shares), num_devices[node])
        if count > 0:
            shares.append(NodeShare(node, count))
    return tuple(shares)
