"""All-reduce among ranks: the sums of every rank's arena become those of all. Knows nothing of devices."""

from collections.abc import Callable
from pathlib import Path

from tplaunch.collectives.arena import NUM_PARITIES, round_up_to_page
from tplaunch.collectives.base import (
    DEFAULT_TIMEOUT_SECONDS,
    TOKEN_BYTES,
    Collective,
    CollectiveAborted,
    CollectiveError,
    CollectiveTimeout,
)
from tplaunch.collectives.loopback import Loopback
from tplaunch.collectives.shared_memory import SharedMemory
from tplaunch.collectives.zmq_ring import ZmqRing

__all__ = [
    "DEFAULT_TIMEOUT_SECONDS",
    "KINDS",
    "TOKEN_BYTES",
    "Collective",
    "CollectiveAborted",
    "CollectiveError",
    "CollectiveTimeout",
    "Loopback",
    "SharedMemory",
    "ZmqRing",
    "arena_bytes",
    "create",
    "shares_arena",
]

KINDS: dict[str, Callable[..., Collective]] = {"shared-memory": SharedMemory, "zmq-ring": ZmqRing}


def shares_arena(kind: str) -> bool:
    """Tells whether all ranks have one arena, which rank 0 makes."""
    return KINDS[kind] is SharedMemory


def arena_bytes(kind: str, num_ranks: int, slot_bytes: int) -> int:
    """The size of an arena of one of KINDS, for all-reduces of up to slot_bytes."""
    num_partials = num_ranks if shares_arena(kind) else 1
    return NUM_PARITIES * num_partials * round_up_to_page(slot_bytes)


def create(
    kind: str,
    *,
    rank: int,
    num_ranks: int,
    slot_bytes: int,
    token: bytes,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    folder: Path | None = None,
    address: str = "",
) -> Collective:
    """One rank's end of a collective of one of KINDS; a single rank always gets Loopback.

    slot_bytes: the largest all-reduce; the arena rounds it up to whole pages.
    token: TOKEN_BYTES random bytes, the same on all ranks of this run and unknown to others.
    folder: the run's private one, for the sockets of ranks of one host; without it a ring goes over TCP.
    address: of this host, where ranks of others reach this one; empty where all are on this host.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown collective {kind!r}: choose one of {', '.join(KINDS)}")
    if num_ranks == 1 and rank == 0:
        return Loopback(slot_bytes=slot_bytes, timeout_seconds=timeout_seconds)
    return KINDS[kind](
        rank=rank,
        num_ranks=num_ranks,
        slot_bytes=slot_bytes,
        token=token,
        timeout_seconds=timeout_seconds,
        **(_way(folder, address) if kind == "zmq-ring" else {}),
    )


def _way(folder: Path | None, address: str) -> dict[str, Path | str | None]:
    """How the ranks of a ring reach each other."""
    return {"folder": None, "host": address} if address else {"folder": folder}
