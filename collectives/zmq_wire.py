"""The messages between the ranks of a ring: one frame each, a fixed header and then at most one piece.

A piece is float32 numbers in a CHUNK, UTF-8 text in an ABORT, and absent otherwise. Everything is
little-endian. No message tells who may send it: that is settled before one is read (zmq_doors.py).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from tplaunch.collectives.base import MAX_REASON_BYTES, CollectiveError

PROTOCOL_VERSION = 2
_MAGIC = b"ring"
_HEADER = struct.Struct("<4sHHHxxIIQQ")  # magic, version, kind, sender, step, piece, sequence, count
HEADER_BYTES = _HEADER.size
PIECE_ELEMENTS = 1 << 14  # float32: what a peer can make this rank hold at once stays small
MAX_MESSAGE_BYTES = HEADER_BYTES + PIECE_ELEMENTS * 4


class Kind(IntEnum):
    HELLO = 0  # the sender is reachable
    CHUNK = 1  # part of a sum; a wire type other than float32 would be a kind of its own
    WAITING = 2  # the sender has come to this sequence, and has been waiting for some time
    ABORT = 3  # the sender aborted


_KINDS = {int(kind): kind for kind in Kind}


@dataclass(frozen=True)
class Header:
    kind: Kind
    sender: int
    sequence: int = 0
    step: int = 0  # of the 2 * (num_ranks - 1) steps of one all-reduce
    piece: int = 0  # of the chunk of this step
    count: int = 0  # elements in the whole all-reduce, not in this chunk

    def message(self, payload: bytes | memoryview = b"") -> bytes:
        """The frame to send. The payload is copied."""
        fields = self.kind, self.sender, self.step, self.piece, self.sequence, self.count
        return b"".join((_HEADER.pack(_MAGIC, PROTOCOL_VERSION, *fields), payload))


class Message(NamedTuple):
    header: Header
    payload: memoryview  # of bytes


def parse(frame: memoryview, num_ranks: int) -> Message | None:
    """Parses a frame; None for no message. Raises CollectiveError where a rank speaks another version."""
    if not HEADER_BYTES <= frame.nbytes <= MAX_MESSAGE_BYTES:
        return None
    magic, version, kind, sender, step, piece, sequence, count = _HEADER.unpack_from(frame)
    if magic != _MAGIC or sender >= num_ranks:
        return None
    if version != PROTOCOL_VERSION:
        message = f"rank {sender} speaks version {version} of the ring's protocol, not {PROTOCOL_VERSION}"
        raise CollectiveError(f"{message}: install the same release on every host", sender)
    known = _KINDS.get(kind)
    if known is None:
        return None
    return Message(Header(known, sender, sequence, step, piece, count), frame[HEADER_BYTES:])


def decode_reason(payload: memoryview) -> str:
    return bytes(payload[:MAX_REASON_BYTES]).decode(errors="replace")
