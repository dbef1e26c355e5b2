"""The messages between ranks: one frame each, a fixed header and then at most one piece of a sum.

A piece is numbers as the wire type lays them, in an ABORT an error, in a WAITING the ranks that the sender
waits for, and absent otherwise. Everything is little-endian. No message tells who may send it: that is
settled before one is read (zmq_doors.py).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from tplaunch.collectives.failures import MAX_ERROR_BYTES, CollectiveError

PROTOCOL_VERSION = 3
DIGEST_BYTES = 8
NO_DIGEST = bytes(DIGEST_BYTES)
_MAGIC = 0xA7
# Magic, version, kind, wire type; sender, hop; piece, count, step, sequence, digest, run; and the checksum.
_FIELDS = struct.Struct("<BBBBHHIIIQ8sI")
_CHECKSUM = struct.Struct("<I")
FIELD_BYTES = _FIELDS.size
HEADER_BYTES = FIELD_BYTES + _CHECKSUM.size
_RANK = struct.Struct("<H")
PIECE_ELEMENTS = 1 << 14  # float32: what a peer can make this rank hold at once stays small
MAX_MESSAGE_BYTES = HEADER_BYTES + max(PIECE_ELEMENTS * 4, MAX_ERROR_BYTES)


class Kind(IntEnum):
    HELLO = 0  # the sender is reachable
    PIECE = 1  # part of a sum
    WAITING = 2  # the sender has come to this sequence, and has been waiting for some time
    ABORT = 3  # the sender failed


_KINDS = {int(kind): kind for kind in Kind}


class Header(NamedTuple):
    """The fields before a payload. It is a tuple, since some are made for every message."""

    kind: Kind
    sender: int  # a member, counted from 0
    sequence: int = 0
    hop: int = 0  # 0 for one that goes to all at once, from 1 on around a ring
    piece: int = 0  # of this hop
    elements: int = 0  # of the whole all-reduce, not of this piece
    wire: int = 0  # the number of a wire type
    step: int = 0  # of the model, modulo 2^32
    digest: bytes = NO_DIGEST  # of what the step is to compute
    run: int = 0

    def fields(self) -> bytes:
        """Returns the frame up to the checksum, FIELD_BYTES."""
        return _FIELDS.pack(
            _MAGIC,
            PROTOCOL_VERSION,
            self.kind,
            self.wire,
            self.sender,
            self.hop,
            self.piece,
            self.elements,
            self.step,
            self.sequence,
            self.digest,
            self.run,
        )

    def message(self, payload: bytes | memoryview = b"") -> bytes:
        """The frame to send. The payload is copied."""
        return framed(self.fields(), payload)


def framed(fields: bytes, payload: bytes | memoryview) -> bytes:
    """The frame of a header's fields and a payload, which is copied."""
    checksum = zlib.crc32(payload, zlib.crc32(fields))
    return b"".join((fields, _CHECKSUM.pack(checksum), payload))


def is_due(frame: memoryview, fields: bytes, num_bytes: int) -> bool:
    """Tells whether a frame has just these fields, a payload of so many bytes, and arrived intact."""
    if frame.nbytes != HEADER_BYTES + num_bytes or frame[:FIELD_BYTES] != fields:
        return False
    (told,) = _CHECKSUM.unpack_from(frame, FIELD_BYTES)
    return bool(told == zlib.crc32(frame[HEADER_BYTES:], zlib.crc32(fields)))


class Message(NamedTuple):
    header: Header
    payload: memoryview  # of bytes
    is_intact: bool  # whether the checksum is that of what came


def run_number(token: bytes) -> int:
    """Returns a run's number in its messages; the token does not follow from it."""
    digest = hashlib.blake2b(key=token, digest_size=4, person=b"tplaunch-run").digest()
    return int.from_bytes(digest, "little")


def parse(frame: memoryview, ranks: Sequence[int]) -> Message | None:
    """Parses a frame; None for no message. Raises CollectiveError where a rank speaks another version.

    ranks: of the members that take part; a header's sender is a member.
    """
    if not HEADER_BYTES <= frame.nbytes <= MAX_MESSAGE_BYTES:
        return None
    magic, version, kind, wire, sender, hop, piece, count, step, sequence, digest, run = _FIELDS.unpack_from(
        frame
    )
    if magic != _MAGIC or sender >= len(ranks):
        return None
    if version != PROTOCOL_VERSION:
        rank = ranks[sender]
        message = f"rank {rank} speaks version {version} of the hosts' protocol, not {PROTOCOL_VERSION}"
        raise CollectiveError(f"{message}: install the same release on every host", rank)
    known = _KINDS.get(kind)
    if known is None:
        return None
    header = Header(known, sender, sequence, hop, piece, count, wire, step, digest, run)
    payload = frame[HEADER_BYTES:]
    checksum = zlib.crc32(payload, zlib.crc32(frame[:FIELD_BYTES]))
    (told,) = _CHECKSUM.unpack_from(frame, FIELD_BYTES)
    return Message(header, payload, checksum == told)


def encode_ranks(ranks: Sequence[int]) -> bytes:
    return b"".join(map(_RANK.pack, ranks))


def decode_ranks(payload: memoryview) -> tuple[int, ...]:
    """Returns the ranks in a payload; a torn one at its end is left out."""
    whole = payload.nbytes // _RANK.size * _RANK.size
    return tuple(rank for (rank,) in _RANK.iter_unpack(payload[:whole]))
