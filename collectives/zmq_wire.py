"""What the ranks of a ring say to each other: one fixed header, then at most one payload.

The payload is float32 numbers in a CHUNK, UTF-8 text in an ABORT, and absent otherwise. Everything
is little-endian. The token tells the run's own messages from a stranger's; it is no encryption.
"""

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import zmq

from tplaunch.collectives.base import MAX_REASON_BYTES, CollectiveError

PROTOCOL_VERSION = 1
_HEADER = struct.Struct("<16sHBBIQQ")  # token, version, kind, sender, step, sequence, count
HEADER_BYTES = _HEADER.size


class Kind(IntEnum):
    HELLO = 0  # the sender is reachable
    CHUNK = 1  # part of a sum; a wire type other than float32 would be a kind of its own
    WAITING = 2  # the sender has come to this sequence, and has been waiting for some time
    ABORT = 3  # the sender aborted


@dataclass(frozen=True)
class Header:
    kind: Kind
    sender: int
    sequence: int = 0
    step: int = 0  # of the 2 * (num_ranks - 1) steps of one all-reduce
    count: int = 0  # elements in the whole all-reduce, not in this chunk

    def pack(self, token: bytes) -> bytes:
        return _HEADER.pack(
            token, PROTOCOL_VERSION, self.kind, self.sender, self.step, self.sequence, self.count
        )


@dataclass(frozen=True)
class Message:
    header: Header
    payload: memoryview  # of bytes


def parse(frames: Sequence[zmq.Frame], token: bytes, num_ranks: int) -> Message | None:
    """None for what is not this run's: anyone can connect to a socket. Raises CollectiveError where
    a rank of this run speaks another version."""
    if not 1 <= len(frames) <= 2 or len(frames[0].buffer) != HEADER_BYTES:
        return None
    sent_token, version, kind, sender, step, sequence, count = _HEADER.unpack(frames[0].bytes)
    if not hmac.compare_digest(sent_token, token) or sender >= num_ranks:
        return None
    if version != PROTOCOL_VERSION:
        message = f"rank {sender} speaks version {version} of the ring's protocol, not {PROTOCOL_VERSION}"
        raise CollectiveError(f"{message}: install the same release on every host", sender)
    if kind not in set(Kind):
        return None
    payload = frames[1].buffer if len(frames) == 2 else memoryview(b"")
    return Message(Header(Kind(kind), sender, sequence, step, count), payload)


def decode_reason(payload: memoryview) -> str:
    return bytes(payload[:MAX_REASON_BYTES]).decode(errors="replace")
