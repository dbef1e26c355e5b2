"""An exchange in which every member sends its numbers to all others at once: for few numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tplaunch.collectives.links import Exchange, Links
from tplaunch.collectives.wire_types import Floats
from tplaunch.collectives.zmq_wire import PIECE_ELEMENTS

TakeOwn = Callable[[slice], Floats]  # this member's numbers, by the elements; they may be written


def one_shot(links: Links, exchange: Exchange, own: TakeOwn, slots: Floats) -> None:
    """Fills the peers' rows of slots [members, elements], each with what that member has.

    Where the wire type rounds, own numbers become what the peers read.
    """
    wire = exchange.wire
    for piece, span in enumerate(pieces(0, exchange.count)):
        values = own(span)
        payload = wire.encode(values)
        links.send(links.peers, exchange, 0, piece, payload)
        if wire.rounds:
            wire.decode(payload, values)
    for piece, span in enumerate(pieces(0, exchange.count)):
        num_bytes = wire.num_bytes(span.stop - span.start)
        for peer in links.peers:
            wire.decode(links.take(peer, exchange, 0, piece, num_bytes), slots[peer, span])


def pieces(start: int, stop: int) -> Iterator[slice]:
    """Yields the elements of one message after another. No elements are one empty piece: it is a barrier."""
    for first in range(start, max(stop, start + 1), PIECE_ELEMENTS):
        yield slice(first, min(stop, first + PIECE_ELEMENTS))
