"""Shares ranks out over the nodes of a cluster. Pure arithmetic: it knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tplaunch.coordinator.split.plan import MAX_RANKS
from tplaunch.launcher.errors import UsageError


@dataclass(frozen=True)
class NodeShare:
    """So many ranks on one node."""

    node: str
    num_ranks: int


def share_out(
    num_devices: Mapping[str, int], own: str, num_ranks: int | None, own_name: str
) -> tuple[NodeShare, ...]:
    """Returns who gets how many ranks, this node first, then those with the most devices: few hosts do best.

    num_devices: by node. own: the node on which the head runs; it takes part, as the head computes, too.
    Raises UsageError.
    """
    total = sum(num_devices.values())
    if not total:
        raise UsageError(
            f"--engine ray: none of the Ray cluster's {len(num_devices)} nodes has a device that --devices"
            " names; `tplaunch devices` says there why, and --devices cpu has their processors compute"
        )
    if not num_devices.get(own):
        raise UsageError(
            f"--engine ray: this machine ({own_name}) has no device in the Ray cluster, but the head computes"
            f" as well: start tplaunch on a node that has one ({total} devices are on others)"
        )
    wanted = min(total, MAX_RANKS) if num_ranks is None else num_ranks
    if wanted > total:
        raise UsageError(
            f"--num-ranks {wanted}: the Ray cluster's {len(num_devices)} nodes have {total} devices"
        )
    shares: list[NodeShare] = []
    for node in _in_order(num_devices, own):
        count = min(wanted - sum(share.num_ranks for share in shares), num_devices[node])
        if count > 0:
            shares.append(NodeShare(node, count))
    return tuple(shares)


def _in_order(num_devices: Mapping[str, int], own: str) -> Sequence[str]:
    return sorted(num_devices, key=lambda node: (node != own, -num_devices[node], node))
