"""An exchange around a ring, reduce-scatter and then all-gather: for many numbers and more than two members.

A chunk is summed along one chain of members and then handed on, so that all have the same bits. It comes in
pieces, and a piece travels on as soon as it is added: sending overlaps with adding, hop by hop.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tplaunch.collectives.links import Exchange, Links
from tplaunch.collectives.one_shot import TakeOwn, pieces
from tplaunch.collectives.wire_types import BLOCK, Floats, Payload


def ring(links: Links, exchange: Exchange, own: TakeOwn, total: Floats) -> None:
    """Makes total [elements] the sum of all members' numbers. It may be the memory that `own` returns."""
    size, wire = len(links.ranks), exchange.wire
    left, right = (links.member - 1) % size, ((links.member + 1) % size,)
    num_hops = 2 * (size - 1)
    for piece, span in enumerate(_chunk(links.member, size, exchange.count)):
        links.send(right, exchange, 1, piece, wire.encode(own(span)))
    for hop in range(1, num_hops + 1):
        for piece, span in enumerate(_chunk((links.member - hop) % size, size, exchange.count)):
            values = total[span]
            payload: Payload = links.take(left, exchange, hop, piece, wire.num_bytes(values.size))
            if hop < size:
                np.add(own(span), wire.numbers(payload, values.size), out=values)
                payload = wire.encode(values)
            if hop < num_hops:
                links.send(right, exchange, hop + 1, piece, payload)
            if hop >= size or (hop == size - 1 and wire.rounds):  # the whole sum, as all members read it
                wire.decode(payload, values)


def _chunk(index: int, size: int, count: int) -> Iterator[slice]:
    """Yields the pieces of one of `size` chunks, which end with a block of q8."""
    blocks = -(-count // BLOCK)
    start, stop = (min(count, blocks * edge // size * BLOCK) for edge in (index, index + 1))
    return pieces(start, stop)
