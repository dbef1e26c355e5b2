"""Who is kept out of a ring, and at what price: strangers, and those who take over a dead rank's place."""

import os
import socket
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import psutil
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.unit.collectives_group import connected, on_ranks
from tplaunch.collectives import Collective, CollectiveError, ZmqRing
from tplaunch.collectives.zmq_doors import secret_key
from tplaunch.collectives.zmq_wire import HEADER_BYTES, MAX_MESSAGE_BYTES, Header, Kind

TOKEN = bytes(range(16))
MEGABYTE = bytes(1 << 20)
NUM_MEGABYTES = 64  # that a stranger sends, or tries to
MAX_GROWTH = 24 << 20  # bytes of this process
FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
FAILED |= zmq.EVENT_HANDSHAKE_FAILED_AUTH


def greeting(mechanism: bytes, as_server: bool = False) -> bytes:
    """How ZMTP 3.1 begins (rfc.zeromq.org/spec/37)."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes([as_server]) + bytes(31)


def command(name: bytes, body: bytes) -> bytes:
    """A ZMTP frame."""
    content = bytes([len(name)]) + name + body
    return b"\x04" + bytes([len(content)]) + content if len(content) < 256 else long_frame(6, content)


def long_frame(flags: int, content: bytes) -> bytes:
    return bytes([flags]) + struct.pack(">Q", len(content)) + content


READY = command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH")
EMPTY_PART = b"\x01\x00"  # and more to come
ATTACKS = {
    "one endless message": b"\x02" + struct.pack(">Q", 1 << 30),
    "one endless part of many": b"\x03" + struct.pack(">Q", 1 << 30),
    "an endless command": b"\x06" + struct.pack(">Q", 1 << 30),
    "endless empty parts": EMPTY_PART * (1 << 16),
    "endless large parts": long_frame(3, bytes(MAX_MESSAGE_BYTES)) * 8,
}


def reduce_nine(rank: Collective, sequence: int) -> float:
    rank.partials(sequence % 2)[0, :9] = rank.rank + 1
    rank.all_reduce(sequence, sequence % 2, 9)
    return float(rank.partials(sequence % 2)[0, 8])


def address(endpoint: str) -> tuple[str, int]:
    host, port = endpoint.removeprefix("tcp://").split(":")
    return host, int(port)


def attack_with(connection: socket.socket, mechanism: bytes, attack: str) -> None:
    """Sends until all is sent or the peer hangs up; without a mechanism first until it is let in."""
    connection.settimeout(30)
    try:
        connection.sendall(greeting(mechanism))
        if mechanism == b"NULL":
            connection.sendall(READY)
            heard = b""
            while b"READY" not in heard and (part := connection.recv(1 << 16)):
                heard += part
        connection.sendall(ATTACKS[attack])
        for _ in range(NUM_MEGABYTES):
            connection.sendall(ATTACKS[attack] if "parts" in attack else MEGABYTE)
    except (ConnectionError, TimeoutError):
        pass


@pytest.mark.parametrize("mechanism", [b"NULL", b"CURVE", b"PLAIN"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_strangers_message_takes_no_memory_and_disturbs_no_one(mechanism: bytes, attack: str) -> None:
    with connected("zmq-ring over TCP", 2) as ranks:
        target = ranks[0]
        assert isinstance(target, ZmqRing)
        assert on_ranks(ranks, partial(reduce_nine, sequence=1)) == [3.0, 3.0]
        before = psutil.Process().memory_info().rss
        for _ in range(4):
            with socket.create_connection(address(target.endpoint)) as stranger:
                attack_with(stranger, mechanism, attack)
        assert psutil.Process().memory_info().rss - before < MAX_GROWTH
        assert on_ranks(ranks, partial(reduce_nine, sequence=2)) == [3.0, 3.0]
        assert target._links.num_foreign_messages == 0


def test_many_connections_that_say_nothing_disturb_no_one() -> None:
    with connected("zmq-ring over TCP", 2) as ranks:
        strangers = [socket.create_connection(address(ranks[0].endpoint)) for _ in range(100)]
        assert on_ranks(ranks, partial(reduce_nine, sequence=1)) == [3.0, 3.0]
        for stranger in strangers:
            stranger.close()


@contextmanager
def push(set_up: Callable[["zmq.Socket[bytes]"], None], endpoint: str) -> Iterator["zmq.Socket[bytes]"]:
    """The monitor of a stranger's socket that sends a message as soon as it is let in."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.setsockopt(zmq.LINGER, 0)
        set_up(stranger)
        monitor = stranger.get_monitor_socket(FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        stranger.connect(endpoint)
        stranger.send(Header(Kind.ABORT, 1).message(b"a stranger's reason"))
        yield monitor
        stranger.disable_monitor()
        monitor.close()


def with_wrong_key(stranger: "zmq.Socket[bytes]") -> None:
    keys = [secret_key(b"another run's..!", rank) for rank in (0, 1)]
    stranger.setsockopt(zmq.CURVE_SECRETKEY, keys[1])
    stranger.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(keys[1]))
    stranger.setsockopt(zmq.CURVE_SERVERKEY, zmq.curve_public(keys[0]))


def with_another_ranks_key(stranger: "zmq.Socket[bytes]") -> None:
    """As if rank 1 took this rank for rank 2."""
    own = secret_key(TOKEN, 1)
    stranger.setsockopt(zmq.CURVE_SECRETKEY, own)
    stranger.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(own))
    stranger.setsockopt(zmq.CURVE_SERVERKEY, zmq.curve_public(secret_key(TOKEN, 2)))


def with_a_name(stranger: "zmq.Socket[bytes]") -> None:
    stranger.setsockopt(zmq.PLAIN_USERNAME, b"rank")
    stranger.setsockopt(zmq.PLAIN_PASSWORD, b"guess")


@pytest.mark.parametrize("set_up", [with_wrong_key, with_another_ranks_key, with_a_name, lambda _: None])
def test_who_does_not_know_the_token_is_not_let_in(set_up: Callable[["zmq.Socket[bytes]"], None]) -> None:
    ring = ZmqRing(rank=0, num_ranks=2, slot_bytes=1, token=TOKEN)
    with push(set_up, ring.endpoint) as monitor:
        assert monitor.poll(30_000)
        assert recv_monitor_message(monitor)["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert not ring._links._inbox.poll(0)
    ring.close()


def taken_over(listener: socket.socket, own_greeting: bytes, then: bytes) -> bytes:
    """Returns the bytes that a peer tells the one who listens in another's place, until it hangs up."""
    listener.settimeout(30)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(30)
        heard = connection.recv(1)  # a peer that hangs up at once may take back what it has said
        connection.sendall(own_greeting)
        try:
            while b"a reason" not in heard and (part := connection.recv(1 << 16)):
                heard += part
                if len(heard) > 64 and then:
                    connection.sendall(then)
                    then = b""
        except ConnectionError:
            pass
    return heard


def check_no_secret(heard: bytes, token: bytes) -> None:
    keys = [secret_key(token, rank) for rank in (0, 1)]
    public = [zmq.curve_public(key) for key in keys]
    secrets = [token, *keys, *public, *map(zmq.utils.z85.decode, [*keys, *public])]
    assert heard.startswith(b"\xff") and not any(secret in heard for secret in secrets)


@pytest.mark.parametrize(
    ("mechanism", "answer"), [(b"CURVE", command(b"WELCOME", bytes(160))), (b"NULL", READY), (b"PLAIN", b"")]
)
def test_who_takes_over_a_dead_ranks_port_learns_nothing(mechanism: bytes, answer: bytes) -> None:
    left, dead = (ZmqRing(rank=rank, num_ranks=2, slot_bytes=1, token=TOKEN) for rank in (0, 1))
    endpoints = [left.endpoint, dead.endpoint]
    assert on_ranks([left, dead], lambda rank: rank.connect(endpoints)) == [None, None]
    dead.close()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address(endpoints[1]))
        listener.listen()
        left.abort("a reason")  # which it tries to tell
        heard = taken_over(listener, greeting(mechanism, as_server=True), answer)
    check_no_secret(heard, TOKEN)
    assert b"a reason" not in heard
    left.close()


@pytest.mark.parametrize("host", ["::1", "[::1]", "127.0.0.2"])
def test_an_address_of_any_kind_will_do(host: str) -> None:
    ranks = []
    try:
        ranks = [ZmqRing(rank=rank, num_ranks=2, slot_bytes=1, token=TOKEN, address=host) for rank in (0, 1)]
    except CollectiveError:
        if ":" not in host:
            raise
        pytest.skip("this machine has no IPv6")
    endpoints = [rank.endpoint for rank in ranks]
    assert on_ranks(ranks, lambda rank: rank.connect(endpoints)) == [None, None]
    assert on_ranks(ranks, partial(reduce_nine, sequence=1)) == [3.0, 3.0]
    for rank in ranks:
        rank.close()


# In a folder: nobody else can enter it, and nothing secret is sent.


def in_folder(folder: Path, rank: int) -> ZmqRing:
    return ZmqRing(rank=rank, num_ranks=2, slot_bytes=1, token=TOKEN, folder=folder)


def test_on_one_host_only_this_user_can_enter(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        ring = in_folder(tmp_path, 1)
    finally:
        os.umask(before)
    found = (tmp_path / "link-1").stat()
    assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600
    assert ring.endpoint == "link-1"
    ring.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(CollectiveError, match=r"rank 0 cannot listen in .*: other users can enter it"):
        in_folder(tmp_path, 0)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CollectiveError, match=r"cannot listen in .*gone': No such file or directory"):
        in_folder(tmp_path / "gone", 0)


def test_a_folder_of_any_name_will_do() -> None:
    """Longer than a socket's name can be, and not text."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(os.fsdecode(os.fsencode(parent) + b"/\xff\xfe" + b"long" * 60))
        folder.mkdir(0o700)
        ranks = [in_folder(folder, rank) for rank in (0, 1)]
        endpoints = [rank.endpoint for rank in ranks]
        assert on_ranks(ranks, lambda rank: rank.connect(endpoints)) == [None, None]
        assert on_ranks(ranks, partial(reduce_nine, sequence=1)) == [3.0, 3.0]
        for rank in ranks:
            rank.close()


@pytest.mark.parametrize("endpoint", ["link-0", "../link-1", "/tmp/link-1", "tcp://127.0.0.1:1", ""])
def test_a_peer_is_looked_for_in_the_folder_alone(tmp_path: Path, endpoint: str) -> None:
    ring = in_folder(tmp_path, 0)
    with pytest.raises(CollectiveError, match="cannot connect to rank 1 at"):
        ring.connect(["link-0", endpoint])
    ring.close()


@pytest.mark.parametrize("endpoint", ["ipc:///tmp/socket", "inproc://zeromq.zap.01", "/tmp/socket", ""])
def test_a_peer_on_another_host_is_looked_for_on_the_network_alone(endpoint: str) -> None:
    ring = ZmqRing(rank=0, num_ranks=2, slot_bytes=1, token=TOKEN, timeout_seconds=0.5, address="127.0.0.1")
    with pytest.raises(CollectiveError, match="cannot connect to rank 1 at"):
        ring.connect([ring.endpoint, endpoint])
    ring.close()


def test_what_is_none_of_the_rings_is_dropped() -> None:
    """As another program of the same user could send it."""
    foreign = [
        [b""],
        [b"hello"],
        [bytes(HEADER_BYTES)],
        [b"a", b"b", b"c", b"d"],
        [b"\0"] * 1000,
        [Header(Kind.ABORT, 1).message(b"a reason"), b"and more"],
        [Header(Kind.HELLO, 0).message()],  # from oneself
    ]
    with connected("zmq-ring", 2) as ranks:
        target = ranks[0]
        assert isinstance(target, ZmqRing)
        stranger = ranks[1]._links._outboxes[0]  # type: ignore[attr-defined]
        for parts in foreign:
            stranger.send_multipart(parts)
        for sequence in count(1):
            assert on_ranks(ranks, partial(reduce_nine, sequence=sequence)) == [3.0, 3.0]
            if target._links.num_foreign_messages == len(foreign):
                break
            assert sequence < 10_000


def test_a_message_that_is_too_large_is_not_taken_in(tmp_path: Path) -> None:
    ring = in_folder(tmp_path, 0)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(tmp_path / "link-0"))
        attack_with(stranger, b"NULL", "one endless message")
        with pytest.raises(ConnectionError):
            stranger.sendall(MEGABYTE)
    assert not ring._links._inbox.poll(0)
    ring.close()


def test_who_takes_over_a_dead_ranks_socket_learns_no_secret(tmp_path: Path) -> None:
    left, dead = (in_folder(tmp_path, rank) for rank in (0, 1))
    assert on_ranks([left, dead], lambda rank: rank.connect(["link-0", "link-1"])) == [None, None]
    dead.close()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "link-1"))
        listener.listen()
        left.abort("a reason")
        heard = taken_over(listener, greeting(b"NULL"), READY.replace(b"PUSH", b"PULL"))
    check_no_secret(heard, TOKEN)
    left.close()
