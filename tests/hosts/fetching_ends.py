"""Both ends of a fetch, as processes on two hosts: `serve ADDRESS MODEL` and `fetch ENDPOINT MODEL CACHE`.

The fetching end gets what the second of two ranks reads, and prints the bytes and the seconds of that. `send`
and `receive` pass as many plain bytes over TCP, which says how fast the link is.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from tests.fetched_models import Fetched
from tplaunch.launcher.hosts.fetching.obtain import NUM_STREAMS, fetch_model
from tplaunch.launcher.hosts.fetching.streams import ModelService, open_streams
from tplaunch.launcher.hosts.fetching.wanted import to_integers, wanted_blocks

CHUNK = bytes(1 << 20)


def plain(_socket: object) -> None:
    """Leaves a socket without CURVE."""


def serve(address: str, model: str) -> None:
    fetched = Fetched.of(Path(model), Path())
    with fetched.server, ModelService(fetched.server, zmq.Context.instance(), address, plain) as service:
        print(f"port {service.port}", flush=True)
        sys.stdin.read()


def fetch(endpoint: str, model: str, cache: str) -> None:
    """`model` says what is wanted; its bytes come from the other end."""
    fetched = Fetched.of(Path(model), Path(cache))
    shares = fetched.shares(2)[1:]
    wanted = to_integers(wanted_blocks(fetched.spec, shares, fetched.model.tensors))

    def opened(stopped: threading.Event) -> Any:
        return open_streams(zmq.Context.instance(), endpoint, plain, 20.0, stopped, NUM_STREAMS)

    with fetched.server:
        begin = time.monotonic()
        fetch_model(fetched.server.facts, wanted, fetched.cache, opened, print, threading.Event())
        seconds = time.monotonic() - begin
        fetched.check(shares)
        print(f"took {seconds:.4f}", flush=True)


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
