"""Says what is wrong with a message that is not the one that was due."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.collectives.failures import CollectiveError, counts_differ
from tplaunch.collectives.wire_types import WIRE_NAMES
from tplaunch.collectives.zmq_wire import Header, Message


def fault_of(
    message: Message, due: Header, num_bytes: int, ranks: Sequence[int], rank: int
) -> CollectiveError:
    """Returns the error of `rank`, which got a message in place of the one that is due with so many bytes."""
    got = message.header
    sender = ranks[got.sender]
    text = _sentence(message, due, num_bytes, sender, rank)
    if text is None:
        return counts_differ(due.sequence, rank, due.elements, sender, got.elements)
    return CollectiveError(text, sender)


def _sentence(message: Message, due: Header, num_bytes: int, sender: int, rank: int) -> str | None:
    """Returns the most telling difference; None where it is the count."""
    got = message.header
    if not message.is_intact:
        return f"what rank {sender} sent to rank {rank} arrived damaged: its checksum is another one"
    if got.run != due.run:
        return f"rank {sender} belongs to run {got.run:08x}, rank {rank} to run {due.run:08x}"
    if got.step != due.step:
        return f"rank {sender} is in step {got.step}, rank {rank} in step {due.step}"
    if got.digest != due.digest:
        return (
            f"rank {sender} and rank {rank} were given different steps {due.step}: their digests are"
            f" {got.digest.hex()} and {due.digest.hex()}"
        )
    if got.sequence != due.sequence:
        return (
            f"rank {sender} sent a piece of all-reduce {got.sequence} to rank {rank}, which awaits one of"
            f" all-reduce {due.sequence}"
        )
    if got.wire != due.wire:
        mine = WIRE_NAMES[due.wire]
        theirs = WIRE_NAMES.get(got.wire, f"type {got.wire}")
        return f"rank {sender} sends sums as {theirs}, rank {rank} as {mine}: all need the same --wire"
    if got.elements != due.elements:
        return None
    if (got.hop, got.piece) != (due.hop, due.piece):
        return (
            f"rank {sender} sent {_place(got)} of all-reduce {due.sequence} to rank {rank}, which awaits"
            f" {_place(due)}"
        )
    return (
        f"rank {sender} sent {_place(got)} of all-reduce {due.sequence} with {message.payload.nbytes} bytes,"
        f" not {num_bytes}"
    )


def _place(header: Header) -> str:
    return f"piece {header.piece}" + (f" of hop {header.hop}" if header.hop else "")
