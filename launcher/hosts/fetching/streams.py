"""Carries a model's bytes over ZeroMQ sockets: the head's service, and the streams of a joining host.

A stream asks one thing at a time. What it asked and has no answer to is asked again, so that a connection may
break and come back; answers to earlier questions are dropped. How the sockets are secured is the caller's.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import zmq

from tplaunch.coordinator.wire import Frame, WireError
from tplaunch.launcher.hosts.fetching.client import STOPPED, Ask, FetchError
from tplaunch.launcher.hosts.fetching.messages import (
    MAX_ANSWER_BYTES,
    AskBytes,
    BytesFollow,
    Reply,
    decode_reply,
    decode_request,
    encode,
)
from tplaunch.launcher.hosts.fetching.server import ModelServer
from tplaunch.running_clock import RunningClock

Socket: TypeAlias = "zmq.Socket[bytes]"
Prepare = Callable[[Socket], None]  # makes a socket speak CURVE before it is bound or connected
MAX_REQUEST_BYTES = 4096
EXTRA_BYTES = 4096  # of the frames around an answer's bytes, and of CURVE
MAX_QUEUED = 16  # answers to one host: it asks for one in each stream
ASK_AGAIN_SECONDS = 5.0
GLANCE_MILLISECONDS = 250  # between looks at whether to stop


class ModelService:
    """Serves a model's bytes at a TCP port, in a thread. Use it as a context, or close it."""

    def __init__(
        self, server: ModelServer, context: zmq.Context[Socket], address: str, prepare: Prepare
    ) -> None:
        """address: an IP address, an IPv6 one in brackets. Raises zmq.ZMQError where it can't be bound."""
        self._server = server
        self._socket = context.socket(zmq.ROUTER)
        self._told, self._tell = socket.socketpair()
        try:
            for option, value in (
                (zmq.LINGER, 0),
                (zmq.MAXMSGSIZE, MAX_REQUEST_BYTES),
                (zmq.SNDHWM, MAX_QUEUED),
                (zmq.RCVHWM, MAX_QUEUED),
                (zmq.IPV6, int("[" in address)),
            ):
                self._socket.setsockopt(option, value)
            prepare(self._socket)
            self.port = self._socket.bind_to_random_port(f"tcp://{address}")
        except zmq.ZMQError:
            self._close()
            raise
        self._thread = threading.Thread(target=self._serve, name="tplaunch model", daemon=True)
        self._thread.start()

    def __enter__(self) -> ModelService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._tell.close()
        self._thread.join()
        self._close()

    def _close(self) -> None:
        self._socket.close()
        self._told.close()
        self._tell.close()

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._told.fileno(), zmq.POLLIN)
        while all(found is self._socket for found, _ in poller.poll()):
            frames = self._socket.recv_multipart()
            if len(frames) != 3:
                continue
            peer, number, request = frames
            try:
                reply, data = self._server.answer(decode_request(request))
            except WireError:
                continue  # nobody who speaks our messages sent it
            # A host that reads nothing gets nothing more: what finds no room is asked for again.
            with contextlib.suppress(zmq.ZMQError):
                self._socket.send_multipart([peer, number, encode(reply), data], zmq.NOBLOCK, copy=False)


class Stream:
    """One connection to the head's service; `ask` is what client.fetch_missing wants."""

    def __init__(
        self,
        context: zmq.Context[Socket],
        endpoint: str,
        prepare: Prepare,
        timeout_seconds: float,
        is_stopped: threading.Event,
    ) -> None:
        self._endpoint, self._timeout_seconds, self._is_stopped = endpoint, timeout_seconds, is_stopped
        self._numbers = itertools.count()
        self._socket = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.MAXMSGSIZE, MAX_ANSWER_BYTES + EXTRA_BYTES),
            (zmq.IPV6, int("[" in endpoint)),
        ):
            self._socket.setsockopt(option, value)
        prepare(self._socket)
        self._socket.connect(endpoint)

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: AskBytes) -> tuple[Reply, Frame]:
        """Returns the head's reply and its bytes. Raises FetchError where none comes."""
        number = next(self._numbers).to_bytes(8, "little")
        clock = RunningClock(most_seconds=2 * GLANCE_MILLISECONDS / 1000)
        while (now := clock()) < self._timeout_seconds:
            with contextlib.suppress(zmq.Again):
                self._socket.send_multipart([number, encode(request)], zmq.NOBLOCK)
            answer = self._receive(number, clock, min(self._timeout_seconds, now + ASK_AGAIN_SECONDS))
            if answer is not None:
                return answer
        raise FetchError(
            f"the head at {self._endpoint.removeprefix('tcp://')} has sent nothing of the model for"
            f" {self._timeout_seconds:g} s"
        )

    def _receive(self, number: bytes, clock: RunningClock, deadline: float) -> tuple[Reply, Frame] | None:
        """Returns the answer to a question; None where none has come by a time of the clock."""
        while (left := deadline - clock()) > 0:
            if self._is_stopped.is_set():
                raise FetchError(STOPPED)
            if not self._socket.poll(min(GLANCE_MILLISECONDS, 1 + int(1000 * left))):
                continue
            frames = self._socket.recv_multipart(copy=False)
            if len(frames) != 3 or frames[0].bytes != number:
                continue  # the answer to an earlier question, which was asked twice
            try:
                reply = decode_reply([frames[1].buffer])
            except WireError as error:
                raise FetchError(f"the head's answer is none: {error}") from error
            return reply, frames[2].buffer if isinstance(reply, BytesFollow) else b""
        return None


@contextlib.contextmanager
def open_streams(
    context: zmq.Context[Socket],
    endpoint: str,
    prepare: Prepare,
    timeout_seconds: float,
    is_stopped: threading.Event,
    count: int,
) -> Iterator[Sequence[Ask]]:
    """Gives the asks of so many streams, which are closed at the end."""
    streams: list[Stream] = []
    try:
        for _ in range(count):
            streams.append(Stream(context, endpoint, prepare, timeout_seconds, is_stopped))
        yield [stream.ask for stream in streams]
    finally:
        for stream in streams:
            stream.close()
