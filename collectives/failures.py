"""The errors of collectives, and how ranks tell each other of one: it reads the same on all of them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

INSTEAD = "use --collective zmq-ring"  # what to do without shared memory
MAX_REASON_BYTES = 200
MAX_ERROR_BYTES = 320  # of an error that is told: the fields, and the text, which may hold a whole reason
ELLIPSIS = " ..."
_FIELDS = struct.Struct("<BBH")  # kind, whether a rank is to blame, that rank


class CollectiveError(RuntimeError):
    """A collective did not complete; `rank` is the rank that is to blame, where one is known."""

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


class CollectiveTimeout(CollectiveError):
    """A peer did not come in time."""


class CollectiveAborted(CollectiveError):
    """A rank, possibly this one, called abort()."""


_KINDS: tuple[type[CollectiveError], ...] = (CollectiveError, CollectiveTimeout, CollectiveAborted)


def aborted(rank: int, reason: str) -> CollectiveAborted:
    """Returns the error of an abort; a long reason is cut."""
    return CollectiveAborted(f"rank {rank} aborted: {_cut(reason, MAX_REASON_BYTES)}", rank)


def timed_out(
    rank: int, seconds: float, sequence: int, missing: Iterable[int], detail: str = ""
) -> CollectiveTimeout:
    """Returns the error for ranks missing from all-reduce `sequence`, or from connect() where it is 0."""
    ranks = sorted(missing)
    place = f"all-reduce {sequence}" if sequence else "connect()"
    message = f"rank {rank} waited {seconds:g} s in {place} for {named(ranks)}{detail}"
    return CollectiveTimeout(message, ranks[0])


def counts_differ(sequence: int, rank: int, count: int, peer: int, peer_count: int) -> CollectiveError:
    message = f"all-reduce {sequence} has {count} elements on rank {rank} but {peer_count} on rank {peer}"
    return CollectiveError(message, peer)


def named(ranks: Sequence[int]) -> str:
    """Returns the ranks as a sentence has them."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def encode_error(error: CollectiveError) -> bytes:
    """Encodes an error for another rank as at most MAX_ERROR_BYTES."""
    fields = _FIELDS.pack(_KINDS.index(type(error)), error.rank is not None, error.rank or 0)
    return fields + _cut(str(error), MAX_ERROR_BYTES - _FIELDS.size).encode()


def decode_error(told: bytes) -> CollectiveError:
    """Returns the error that another rank told. What none has encoded gives an error too."""
    if len(told) < _FIELDS.size:
        return CollectiveError("a rank failed and did not say why")
    kind, is_blamed, rank = map(int, _FIELDS.unpack_from(told))
    text = told[_FIELDS.size : MAX_ERROR_BYTES].decode(errors="replace")
    found = _KINDS[min(kind, len(_KINDS) - 1)]
    return found(text, rank if is_blamed else None)


def _cut(text: str, num_bytes: int) -> str:
    """Returns a text of at most so many bytes of UTF-8, cut between words where it is longer."""
    if len(text.encode()) <= num_bytes:
        return text
    begin = text.encode()[: num_bytes - len(ELLIPSIS)].decode(errors="ignore")
    return (begin.rpartition(" ")[0] or begin) + ELLIPSIS
