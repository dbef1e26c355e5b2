"""All-reduce among ranks: the sums of every rank's arena become those of all. Knows nothing of devices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tplaunch.collectives.arena import NUM_PARITIES, round_up_to_page
from tplaunch.collectives.base import DEFAULT_TIMEOUT_SECONDS, Collective
from tplaunch.collectives.failures import CollectiveAborted, CollectiveError, CollectiveTimeout
from tplaunch.collectives.handover import Handover
from tplaunch.collectives.hierarchical import Hierarchical
from tplaunch.collectives.loopback import Loopback
from tplaunch.collectives.shared_header import TOKEN_BYTES
from tplaunch.collectives.shared_memory import SharedMemory
from tplaunch.collectives.wire_types import EXACT, WIRE_TYPES
from tplaunch.collectives.zmq_ring import ZmqRing
from tplaunch.collectives.zmq_wire import DIGEST_BYTES

__all__ = [
    "DEFAULT_TIMEOUT_SECONDS",
    "DIGEST_BYTES",
    "KINDS",
    "TOKEN_BYTES",
    "WIRE_TYPES",
    "Collective",
    "CollectiveAborted",
    "CollectiveError",
    "CollectiveTimeout",
    "Handover",
    "Hierarchical",
    "Loopback",
    "SharedMemory",
    "ZmqRing",
    "arena_bytes",
    "create",
    "shares_arena",
]

SHARED_MEMORY, ZMQ, ZMQ_RING = KINDS = ("shared-memory", "zmq", "zmq-ring")


def shares_arena(kind: str) -> bool:
    """Tells whether the ranks of a host have one arena, which the first of them makes."""
    return kind == SHARED_MEMORY


def arena_bytes(kind: str, rank: int, hosts: Sequence[int], slot_bytes: int) -> int:
    """Returns the bytes of a rank's arena of one of KINDS, for all-reduces of up to slot_bytes.

    hosts: of each rank, neighbours' the same, as create() takes them.
    """
    num_local, num_hosts = list(hosts).count(hosts[rank]), len(set(hosts))
    if kind == SHARED_MEMORY and num_hosts > 1:
        num_slots = num_hosts + (num_local if num_local > 1 else 0)
    else:
        num_slots = 1 if kind == ZMQ_RING else len(hosts)
    return NUM_PARITIES * num_slots * round_up_to_page(slot_bytes)


def create(
    kind: str,
    *,
    rank: int,
    num_ranks: int,
    slot_bytes: int,
    token: bytes,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    folder: Path | None = None,
    hosts: Sequence[int] | None = None,
    names: Sequence[int] | None = None,
    wire: str = EXACT.name,
    address: str | None = None,
) -> Collective:
    """One rank's end of a collective of one of KINDS; a single rank always gets Loopback.

    slot_bytes: the largest all-reduce; the arena rounds it up to whole pages.
    token: TOKEN_BYTES random bytes, the same on all ranks of this run and unknown to others.
    folder: the run's private one, for the sockets of ranks of one host. address: to listen on over TCP, one
    that all peers can reach; it goes first. Without either there is only loopback.
    hosts: of each rank, neighbours' the same; None for all on one. Ranks of one share memory as
    "shared-memory"; for "zmq" and "zmq-ring" each counts as a host of its own.
    names: the ranks' numbers in the whole run, for errors. wire: one of WIRE_TYPES.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown collective {kind!r}: choose one of {', '.join(KINDS)}")
    if wire not in WIRE_TYPES:
        raise ValueError(f"unknown wire type {wire!r}: choose one of {', '.join(WIRE_TYPES)}")
    if hosts is not None and len(hosts) != num_ranks:
        raise ValueError(f"{len(hosts)} hosts for {num_ranks} ranks")
    common: dict[str, Any] = {"slot_bytes": slot_bytes, "timeout_seconds": timeout_seconds, "names": names}
    if num_ranks == 1 and rank == 0:
        return Loopback(**common)
    if kind == SHARED_MEMORY and (hosts is None or len(set(hosts)) == 1):
        return SharedMemory(rank=rank, num_ranks=num_ranks, token=token, **common)
    ends: dict[str, Any] = {"token": token, "wire": wire, "folder": folder, "address": address}
    if kind == ZMQ_RING:
        return ZmqRing(rank=rank, num_ranks=num_ranks, **ends, **common)
    if kind == ZMQ or hosts is None:
        hosts = range(num_ranks)
    return Hierarchical(rank=rank, hosts=hosts, **ends, **common)
