"""Both ends of a fetch, processes on two hosts: `serve ADDRESS MODEL` and `fetch ADDRESS PORT MODEL CACHE`.

The fetching end gets what the second of two ranks reads, and prints the bytes and the seconds of that. `send`
and `receive` pass as many plain bytes over TCP, which says how fast the link is.
"""

from __future__ import annotations

import functools
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.fetched_models import Fetched
from tests.models import open_model
from tplaunch.coordinator.curve import SECRET_BYTES
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.fetching.obtain import fetch_model
from tplaunch.launcher.hosts.fetching.serving import dialled_streams, served_model
from tplaunch.launcher.hosts.fetching.wanted import to_integers, wanted_blocks

CHUNK = bytes(1 << 20)
SECRET = bytes(SECRET_BYTES)
SECONDS = 20.0  # of silence


def serve(address: str, model: str) -> None:
    with served_model(open_model(Path(model))[0].origin.parts, address, SECRET) as (_, port):
        print(f"port {port}", flush=True)
        sys.stdin.read()


def fetch(address: str, port: str, model: str, cache: str) -> None:
    """`model` says what is wanted; its bytes come from the other end."""
    fetched = Fetched.of(Path(model), Path(cache))
    shares = fetched.shares(2)[1:]
    wanted = to_integers(wanted_blocks(fetched.spec, shares, fetched.model.tensors))
    num_bytes = 0

    def note(done: int, total: int) -> None:
        nonlocal num_bytes
        num_bytes = total

    opened = functools.partial(dialled_streams, Address(address, int(port)), SECRET, SECONDS)
    with fetched.server:
        begin = time.monotonic()
        fetch_model(fetched.server.facts, wanted, fetched.cache, opened, print, threading.Event(), note)
        seconds = time.monotonic() - begin
        fetched.check(shares)
        print(f"got {num_bytes} took {seconds:.4f}", flush=True)


def send(address: str, num_bytes: str) -> None:
    with socket.create_server((address, 0)) as server:
        print(f"port {server.getsockname()[1]}", flush=True)
        connection, _ = server.accept()
        with connection:
            for _ in range(int(num_bytes) // len(CHUNK)):
                connection.sendall(CHUNK)


def receive(address: str, port: str) -> None:
    begin, num_bytes = time.monotonic(), 0
    with socket.create_connection((address, int(port))) as connection:
        while part := connection.recv(len(CHUNK)):
            num_bytes += len(part)
    print(f"got {num_bytes} took {time.monotonic() - begin:.4f}", flush=True)


if __name__ == "__main__":
    ends: dict[str, Callable[..., None]] = {"serve": serve, "fetch": fetch, "send": send, "receive": receive}
    ends[sys.argv[1]](*sys.argv[2:])
