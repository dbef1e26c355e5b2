"""The journal of a model that is being fetched: which blocks are there, and the digest of each.

A record is appended when its block is written. Whether the disk has both after a crash is not known, so
blocks are read again and compared before they count, unless the journal's end says that the files were
closed in order and they have not been touched since.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tplaunch.coordinator.split.plan import Span
from tplaunch.launcher.hosts.fetching.blocks import Block
from tplaunch.launcher.hosts.fetching.messages import DIGEST_BYTES

MAGIC = b"tplaunch-journal"  # 16 bytes, and the hash of the model follows
VERSION = 1
BLOCK, SEAL = 1, 2
FIELDS = struct.Struct(f"<II4Q{DIGEST_BYTES}s")  # kind, tensor or part, four numbers, a digest
CHECK_BYTES = 8
RECORD_BYTES = FIELDS.size + CHECK_BYTES
HEAD = struct.Struct("<16sI32s")
MAX_JOURNAL_BYTES = 1 << 30
NO_DIGEST = bytes(DIGEST_BYTES)


@dataclass(frozen=True)
class Kept:
    """A block that was fetched."""

    block: Block
    digest: bytes


@dataclass(frozen=True)
class Seal:
    """A file as it was when it was closed in order."""

    part: int
    num_bytes: int
    modified_ns: int
    inode: int

    @staticmethod
    def of(part: int, descriptor: int) -> Seal:
        found = os.fstat(descriptor)
        return Seal(part, found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True)
class Content:
    """The content of a journal. The seals are those at its end, with no block behind them."""

    kept: tuple[Kept, ...]
    seals: tuple[Seal, ...]


def beginning(model_hash: str) -> bytes:
    """Returns the first bytes of the journal of a model."""
    return HEAD.pack(MAGIC, VERSION, bytes.fromhex(model_hash))


def record(entry: Kept | Seal) -> bytes:
    """Returns an entry as it stands in a journal, with a check of its own."""
    if isinstance(entry, Seal):
        numbers = (entry.num_bytes, entry.modified_ns, entry.inode, 0)
        fields = FIELDS.pack(SEAL, entry.part, *numbers, NO_DIGEST)
    else:
        block = entry.block
        numbers = (block.rows.start, block.rows.stop, block.bytes.start, block.bytes.stop)
        fields = FIELDS.pack(BLOCK, block.tensor, *numbers, entry.digest)
    return fields + _check(fields)


def read_journal(data: bytes, model_hash: str) -> Content:
    """Returns what stands in a journal before the first record that is torn or damaged.

    Of a journal of another model or version that is nothing.
    """
    if not data.startswith(beginning(model_hash)):
        return Content((), ())
    kept: list[Kept] = []
    seals: list[Seal] = []
    for start in range(HEAD.size, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        fields, check = data[start : start + FIELDS.size], data[start + FIELDS.size : start + RECORD_BYTES]
        if check != _check(fields):
            break
        kind, number, *numbers, digest = FIELDS.unpack(fields)
        if kind == SEAL:
            seals.append(Seal(number, *numbers[:3]))
        elif (block := _block(number, numbers)) is not None:
            kept.append(Kept(block, digest))
            seals.clear()
    return Content(tuple(kept), tuple(seals))


def _block(tensor: int, numbers: Sequence[int]) -> Block | None:
    first, last, start, stop = numbers
    return Block(tensor, Span(first, last), Span(start, stop)) if first < last and start < stop else None


def _check(fields: bytes) -> bytes:
    return hashlib.blake2b(fields, digest_size=CHECK_BYTES).digest()
