"""Tests features of the ring alone: pieces of a chunk, a wire format, a clock of its own."""

import threading
from collections.abc import Callable
from functools import partial
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.collectives_group import connected, on_ranks
from tplaunch.collectives import Collective, CollectiveError, CollectiveTimeout, ZmqRing
from tplaunch.collectives.zmq_wire import (
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    PIECE_ELEMENTS,
    PROTOCOL_VERSION,
    Header,
    Kind,
    parse,
)

TOKEN = bytes(range(16))


def fill_and_reduce(rank: Collective, sequence: int) -> None:
    rank.partials(sequence % 2)[0, :9] = rank.rank + 1
    rank.all_reduce(sequence, sequence % 2, 9)


@given(st.binary(max_size=HEADER_BYTES - 1))
def test_garbage_is_not_a_message(frame: bytes) -> None:
    assert parse(memoryview(frame), range(4)) is None


def test_a_header_survives_the_wire() -> None:
    header = Header(
        Kind.PIECE, 3, 2**40, hop=5, piece=7, elements=2**31, wire=2, step=2**31, digest=b"digest8b", run=9
    )
    message = parse(memoryview(header.message(b"payload")), range(4))
    assert message is not None
    assert message.header == header
    assert bytes(message.payload) == b"payload"
    assert message.is_intact


def test_what_cannot_be_is_dropped() -> None:
    assert parse(memoryview(Header(Kind.HELLO, sender=4).message()), range(4)) is None
    unknown_kind = bytearray(Header(Kind.HELLO, sender=1).message())
    unknown_kind[2] = 250
    assert parse(memoryview(unknown_kind), range(4)) is None
    unmarked = bytearray(Header(Kind.HELLO, sender=1).message())
    unmarked[0] ^= 1
    assert parse(memoryview(unmarked), range(4)) is None
    too_long = Header(Kind.PIECE, sender=1).message(bytes(MAX_MESSAGE_BYTES - HEADER_BYTES + 1))
    assert parse(memoryview(too_long), range(4)) is None


def test_another_version_is_an_error_that_names_both() -> None:
    other = bytearray(Header(Kind.HELLO, sender=1).message())
    other[1] = PROTOCOL_VERSION + 1
    with pytest.raises(CollectiveError, match=f"rank 1 speaks version {PROTOCOL_VERSION + 1}") as caught:
        parse(memoryview(other), range(4))
    assert caught.value.rank == 1


def test_large_chunks_come_in_pieces_and_their_memory_is_free_at_once() -> None:
    num_values = 3 * (2 * PIECE_ELEMENTS + 77)
    with connected("zmq-ring", 3, slot_bytes=4 * num_values) as ranks:

        def run(rank: Collective) -> bool:
            right = True
            for sequence in range(1, 9):
                values = rank.partials(sequence % 2)[0, :num_values]
                values[:] = np.arange(num_values) % 1000 + rank.rank * sequence
                rank.all_reduce(sequence, sequence % 2, num_values)
                right &= np.array_equal(values, 3 * (np.arange(num_values) % 1000) + 3 * sequence)
                rank.partials(1 - sequence % 2)[:] = np.nan  # the last one's: all must be done with it
            return right

        assert on_ranks(ranks, run) == [True] * 3


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that is `seconds` further each time it is looked at."""
    ticks = count()
    return lambda: next(ticks) * seconds


def test_a_rank_waits_by_the_clock_that_it_is_given() -> None:
    ring = ZmqRing(rank=0, num_ranks=2, slot_bytes=1, token=TOKEN, timeout_seconds=3600, clock=ticking(1801))
    with pytest.raises(CollectiveTimeout, match=r"rank 0 waited 3600 s in connect\(\) for rank 1"):
        ring.connect([ring.endpoint, ring.endpoint])
    ring.close()


def test_what_has_come_is_heard_before_a_rank_gives_up() -> None:
    """Its clock says that an hour goes by at every look, as if it had been stopped in between."""
    arguments = {"num_ranks": 2, "slot_bytes": 1, "token": TOKEN, "timeout_seconds": 60.0}
    make = partial(ZmqRing, **arguments)  # type: ignore[arg-type]
    hasty, other = make(rank=0, clock=ticking(3600)), make(rank=1)
    endpoints = [hasty.endpoint, other.endpoint]
    connecting = threading.Thread(target=other.connect, args=[endpoints])
    connecting.start()
    assert hasty._links._inbox.poll(30_000)  # the other's greeting is here
    hasty.connect(endpoints)
    connecting.join(30)
    assert not connecting.is_alive()
    hasty.close()
    other.close()


def test_a_host_that_is_not_here_is_refused() -> None:
    with pytest.raises(CollectiveError, match=r"cannot listen on '203\.0\.113\.1'"):
        ZmqRing(rank=0, num_ranks=2, slot_bytes=1, token=TOKEN, address="203.0.113.1")


def test_an_endpoint_that_is_none_is_refused() -> None:
    ring = ZmqRing(rank=0, num_ranks=2, slot_bytes=1, token=TOKEN)
    with pytest.raises(CollectiveError, match="cannot connect to rank 1 at 'nowhere'"):
        ring.connect([ring.endpoint, "nowhere"])
    ring.close()
