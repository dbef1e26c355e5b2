"""A stranger on the network attacks a port: `python -m tests.hosts.attacks ATTACK ADDRESS PORT [MORE]`.

Prints `attacking` when it has begun and `done` when it has done its worst; what it holds open it holds until
its input ends. It ends without an error however it is treated.
"""

import random
import resource
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import zmq

from tests.hosts import zmtp
from tests.hosts.record import RECORD

MEGABYTE = bytes(1 << 20)
GIBIBYTE = 1 << 30
NUM_THREADS = 64
MOST_CONNECTIONS = 10_000
MECHANISMS = (b"NULL", b"CURVE", b"PLAIN")
SOCKET_KINDS = (b"PUSH", b"DEALER")


def dial(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), timeout=10)


@contextmanager
def treated_badly() -> Iterator[None]:
    """A connection may be cut off at any time."""
    with suppress(ConnectionError, TimeoutError):
        yield


def random_bytes(address: str, port: int) -> None:
    """Noise from the first byte on, or behind a good beginning."""
    source = random.Random(13)
    for number in range(60):
        with treated_badly(), dial(address, port) as connection:
            connection.sendall(zmtp.greeting(MECHANISMS[number % 3])[: source.choice((0, 11, 64))])
            for _ in range(1 + number % 4):
                connection.sendall(source.randbytes(1 << 16))


def large_message(address: str, port: int) -> None:
    """Announces two gibibytes and more, in a message or in a command, and sends as much as is taken."""
    for mechanism in MECHANISMS:
        for kind in SOCKET_KINDS:
            for flags, size in ((0, 2 * GIBIBYTE), (1, 2 * GIBIBYTE), (4, 2 * GIBIBYTE), (0, (1 << 64) - 1)):
                with treated_badly(), dial(address, port) as connection:
                    connection.sendall(zmtp.greeting(mechanism) + zmtp.ready(kind) + zmtp.frame(flags, size))
                    for _ in range(64):
                        connection.sendall(MEGABYTE)


def half_open(address: str, port: int, held: ExitStack) -> None:
    """Handshakes of which every one stops somewhere else."""
    beginning = zmtp.greeting(b"CURVE") + zmtp.command(b"HELLO", bytes(194))
    for number in range(400):
        with treated_badly():
            connection = held.enter_context(dial(address, port))
            connection.sendall(beginning[: 1 + number * len(beginning) // 400])


def many_connections(address: str, port: int, held: ExitStack, wanted: str = "") -> None:
    """As many connections as this process can have, or as are wanted, that say nothing."""
    most = min(int(wanted or MOST_CONNECTIONS), resource.getrlimit(resource.RLIMIT_NOFILE)[0] - NUM_THREADS)
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # many wait for a place in the queue of the port

        def open_one(_: int) -> None:
            with treated_badly():
                held.enter_context(dial(address, port))

        list(pool.map(open_one, range(most)))


def strange_key(address: str, port: int) -> None:
    """A stranger's keys, with a message behind them that must never be read."""
    for kind in (zmq.PUSH, zmq.DEALER):
        for _ in range(20):
            with zmq.Context() as context, context.socket(kind) as stranger:
                public, secret = zmq.curve_keypair()
                server_key, _ = zmq.curve_keypair()
                stranger.curve_publickey, stranger.curve_secretkey = public, secret
                stranger.curve_serverkey = server_key
                stranger.linger = 0
                monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
                stranger.connect(f"tcp://{address}:{port}")
                stranger.send(b"a stranger's message")
                monitor.poll(1000)
                stranger.disable_monitor()
                monitor.close()


def replay(address: str, port: int, streams: str, frames: str) -> None:
    """Says again what others said in their connections to this port; and sends their very frames again."""
    target = socket.inet_aton(address) + struct.pack(">H", port)
    for record in records(streams):
        if record.startswith(target):
            with treated_badly(), dial(address, port) as connection:
                connection.settimeout(2)
                for start in range(6, len(record), 1000):
                    connection.sendall(record[start : start + 1000])
                while connection.recv(1 << 16):
                    pass
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        for frame in records(frames):
            with suppress(OSError):  # larger than a cable takes: the kernel had not cut it yet
                wire.send(frame)


def records(path: str | Path) -> Iterator[bytes]:
    content, position = Path(path).read_bytes(), 0
    while position < len(content):
        (length,) = RECORD.unpack_from(content, position)
        position += RECORD.size
        yield content[position : position + length]
        position += length


ONCE: dict[str, Callable[..., None]] = {
    "random-bytes": random_bytes,
    "large-message": large_message,
    "strange-key": strange_key,
    "replay": replay,
}
HOLDING: dict[str, Callable[..., None]] = {"half-open": half_open, "many-connections": many_connections}


def main(attack: str, address: str, port: int, *more: str) -> None:
    print("attacking", flush=True)
    with ExitStack() as held:
        if attack in HOLDING:
            HOLDING[attack](address, port, held, *more)
        else:
            ONCE[attack](address, port, *more)
        print("done", flush=True)
        select.select([sys.stdin], [], [])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
