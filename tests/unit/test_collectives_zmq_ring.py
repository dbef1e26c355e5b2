"""What only the ring has: strangers at its socket, and a wire format."""

import socket
import struct
from collections.abc import Sequence
from functools import partial
from itertools import count

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.collectives_group import connected, on_ranks
from tplaunch.collectives import Collective, CollectiveError, ZmqRing
from tplaunch.collectives.zmq_wire import HEADER_BYTES, PROTOCOL_VERSION, Header, Kind, parse

TOKEN = bytes(range(16))


def frames(*parts: bytes) -> list[zmq.Frame]:
    return [zmq.Frame(part) for part in parts]


def knock(endpoint: str, messages: Sequence[Sequence[bytes]]) -> None:
    """Send the messages from a stranger's socket; returns once they are on their way."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(endpoint)
        for message in messages:
            stranger.send_multipart(list(message))


def test_strangers_do_not_disturb() -> None:
    foreign = [
        [b""],
        [b"hello"],
        [bytes(HEADER_BYTES)],
        [Header(Kind.ABORT, 1).pack(b"x" * 16), b"a stranger's reason"],
        [Header(Kind.CHUNK, 1, 1, 0, 9).pack(bytes(16)), bytes(36)],
        [b"a", b"b", b"c", b"d"],
    ]
    with connected("zmq-ring", 2) as ranks:
        target = ranks[0]
        assert isinstance(target, ZmqRing)
        host, port = target.endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        knock(target.endpoint, [*foreign, [bytes(target.slot_bytes + 1)]])
        for sequence in count(1):
            on_ranks(ranks, partial(fill_and_reduce, sequence=sequence))
            assert (target.partials(sequence % 2)[0, :9] == 3).all()
            if target.num_foreign_messages == len(foreign):
                break
            assert sequence < 10_000


def fill_and_reduce(rank: Collective, sequence: int) -> None:
    rank.partials(sequence % 2)[0, :9] = rank.rank + 1
    rank.all_reduce(sequence, sequence % 2, 9)


@given(st.lists(st.binary(max_size=HEADER_BYTES + 2), max_size=3))
def test_garbage_is_not_a_message(parts: list[bytes]) -> None:
    assert parse(frames(*parts), TOKEN, 4) is None


def test_a_header_survives_the_wire() -> None:
    header = Header(Kind.CHUNK, sender=3, sequence=2**40, step=5, count=2**33)
    message = parse(frames(header.pack(TOKEN), b"payload"), TOKEN, 4)
    assert message is not None
    assert message.header == header
    assert bytes(message.payload) == b"payload"


def test_a_sender_or_kind_that_cannot_be_is_dropped() -> None:
    assert parse(frames(Header(Kind.HELLO, sender=4).pack(TOKEN)), TOKEN, 4) is None
    unknown_kind = bytearray(Header(Kind.HELLO, sender=1).pack(TOKEN))
    unknown_kind[18] = 250
    assert parse(frames(bytes(unknown_kind)), TOKEN, 4) is None


def test_another_version_is_an_error_that_names_both() -> None:
    other = bytearray(Header(Kind.HELLO, sender=1).pack(TOKEN))
    struct.pack_into("<H", other, 16, PROTOCOL_VERSION + 1)
    with pytest.raises(CollectiveError, match=f"rank 1 speaks version {PROTOCOL_VERSION + 1}") as caught:
        parse(frames(bytes(other)), TOKEN, 4)
    assert caught.value.rank == 1


def test_a_chunk_that_is_not_due_is_an_error_on_all_ranks() -> None:
    with connected("zmq-ring", 3) as ranks:
        first = ranks[0]
        assert isinstance(first, ZmqRing)
        knock(first.endpoint, [[Header(Kind.CHUNK, 2, sequence=7).pack(first._token), b""]])
        with pytest.raises(CollectiveError, match="rank 2 sent step 0 of all-reduce 7 to rank 0"):
            for sequence in count(1):
                errors = on_ranks(ranks, partial(fill_and_reduce, sequence=sequence))
                if any(errors):
                    assert all("rank 2 sent step 0 of all-reduce 7" in str(error) for error in errors)
                    raise errors[0]


def test_large_chunks_are_sent_from_the_arena() -> None:
    num_values = 300_000
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


def test_a_host_that_is_not_here_is_refused() -> None:
    with pytest.raises(CollectiveError, match=r"cannot listen on '203\.0\.113\.1'"):
        ZmqRing(rank=0, num_ranks=2, slot_bytes=1, token=TOKEN, host="203.0.113.1")


def test_an_endpoint_that_is_none_is_refused() -> None:
    ring = ZmqRing(rank=0, num_ranks=2, slot_bytes=1, token=TOKEN)
    with pytest.raises(CollectiveError, match="cannot connect to rank 1 at 'nowhere'"):
        ring.connect([ring.endpoint, "nowhere"])
    ring.close()
