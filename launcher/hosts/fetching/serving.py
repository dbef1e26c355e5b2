"""The sockets of both ends of a fetch, secured as all between hosts: by the key, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import zmq

from tplaunch.coordinator.curve import Gate, Socket, dial_with, serve_with
from tplaunch.coordinator.gguf.origin import FilePart
from tplaunch.launcher.hosts.addresses import Address, bracketed
from tplaunch.launcher.hosts.fetching.client import Ask
from tplaunch.launcher.hosts.fetching.facts import ModelFacts
from tplaunch.launcher.hosts.fetching.obtain import NUM_STREAMS
from tplaunch.launcher.hosts.fetching.server import ModelServer
from tplaunch.launcher.hosts.fetching.streams import ModelService, open_streams
from tplaunch.launcher.hosts.keys import JOINER


@contextmanager
def served_model(
    parts: Sequence[FilePart], host: str, secret: bytes | None
) -> Iterator[tuple[ModelFacts, int]]:
    """Serves a model's files to those who know the secret; gives what they are, and the port.

    host: the address to listen on. Raises OSError for files that can't be read, zmq.ZMQError for an address.
    """
    context: zmq.Context[Socket] = zmq.Context()
    try:
        if secret is not None:
            Gate(context, secret, [JOINER])

        def prepare(socket: Socket) -> None:
            if secret is not None:
                serve_with(socket, secret)

        with ModelServer(parts) as server, ModelService(server, context, bracketed(host), prepare) as service:
            yield server.facts, service.port
    finally:
        context.term()


@contextmanager
def dialled_streams(
    head: Address, secret: bytes | None, timeout_seconds: float, is_stopped: threading.Event
) -> Iterator[Sequence[Ask]]:
    """Gives the asks of a joining host's streams. head: the address that serves the model."""
    context: zmq.Context[Socket] = zmq.Context()

    def prepare(socket: Socket) -> None:
        if secret is not None:
            dial_with(socket, secret, JOINER)

    try:
        with open_streams(context, head.endpoint, prepare, timeout_seconds, is_stopped, NUM_STREAMS) as asks:
            yield asks
    finally:
        context.term()
