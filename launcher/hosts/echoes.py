"""Measures the link to another host: messages go there, as between ranks, and come back.

Both directions are full at the same time, as in an exchange.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import zmq

from tplaunch.coordinator.curve import CURVE_BYTES, Gate, Socket, dial_with, serve_with
from tplaunch.coordinator.serving.failures import RunError
from tplaunch.launcher.hosts.addresses import Address, bracketed, is_any
from tplaunch.launcher.hosts.keys import JOINER
from tplaunch.launcher.hosts.measurements import TOKEN_BYTES
from tplaunch.launcher.predicting.links import Link

SMALL, LARGE = bytes(64), bytes(16 << 10)
OVER = b""
ROUND_SECONDS, MAX_ROUNDS, QUICK_PART = 0.2, 200, 0.1
# A burst is long enough if it takes so long: what a link lets through at once is then a small part of it.
BURST_SECONDS, MAX_BURST = 0.15, 2048
PROCESSES_PART = 0.8  # of what they reach without a link, from which on it is them who are the limit
SILENCE_SECONDS = 5.0
LINGER_MILLISECONDS = 500  # for the last word


@dataclass(frozen=True)
class Echo:
    """How soon messages come back."""

    round_trip: float  # seconds, of a small one
    bytes_per_second: float  # of many large ones, in each direction

    def link(self, nowhere: Echo, interface_rate: float = 0.0) -> Link:
        """Returns the link alone.

        nowhere: the same on one host, where only the processes take time. Where they let no more through
        than the link did, how much that can is not seen: then the interfaces' rate counts, in bytes per
        second, if it is known and higher.
        """
        rate = self.bytes_per_second
        if rate > PROCESSES_PART * nowhere.bytes_per_second:
            rate = max(rate, interface_rate)
        return Link(max(0.0, self.round_trip - nowhere.round_trip) / 2, rate)


class LinkMeter:
    """The head's end, which others dial. Use it as a context."""

    def __init__(self, host: str, secret: bytes | None) -> None:
        """host: a numeric address to listen on. secret: None for a socket that takes in anybody.

        Raises RunError where there is no port.
        """
        self._host, self._secret = host, secret
        self._context: zmq.Context[Socket] = zmq.Context()
        socket = self._socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
        socket.setsockopt(zmq.IPV6, ":" in host)
        _have_room(socket)
        if secret is not None:
            Gate(self._context, secret, [JOINER])
            serve_with(socket, secret)
        try:
            self.port: int = socket.bind_to_random_port(f"tcp://{bracketed(host)}")
        except zmq.ZMQError as error:
            self._close()
            raise RunError(
                f"no port of {host} can be listened on to measure links: {error.strerror}"
            ) from error

    def nowhere(self) -> Echo:
        """Measures the way to this host itself."""
        ipv6 = ":" in self._host
        host = ("::1" if ipv6 else "127.0.0.1") if is_any(self._host) else self._host

        def ask(token: bytes) -> None:
            target = Address(host, self.port)
            threading.Thread(target=send_back, args=(target, self._secret, token), daemon=True).start()

        return self.measure(ask, "this host")

    def measure(self, ask: Callable[[bytes], None], title: str) -> Echo:
        """Measures the way to the one who dials once `ask` is called with its name. Raises RunError.

        title: of that host, for people.
        """
        token = secrets.token_bytes(TOKEN_BYTES)
        ask(token)
        try:
            self._receive(token)
            return self._measured(token)
        except zmq.ZMQError as error:
            how = f"did not within {SILENCE_SECONDS:g} s" if isinstance(error, zmq.Again) else error.strerror
            raise RunError(
                f"{title} should send messages back, by which its link is measured, and {how}"
            ) from error
        finally:
            with suppress(zmq.ZMQError):
                self._socket.send_multipart([token, OVER], zmq.NOBLOCK)

    def _measured(self, token: bytes) -> Echo:
        rounds: list[float] = []
        while len(rounds) < MAX_ROUNDS and sum(rounds) < ROUND_SECONDS:
            rounds.append(self._burst(token, SMALL, 1))
        round_trip = sorted(rounds)[int(len(rounds) * QUICK_PART)]
        count = 1
        while (seconds := self._burst(token, LARGE, count)) < BURST_SECONDS and count < MAX_BURST:
            count *= 2
        return Echo(round_trip, count * len(LARGE) / max(1e-9, seconds - round_trip))

    def _burst(self, token: bytes, message: bytes, count: int) -> float:
        """Returns the seconds until so many messages are back."""
        begin = time.perf_counter()
        for _ in range(count):
            self._socket.send_multipart([token, message])
        for _ in range(count):
            self._receive(token)
        return time.perf_counter() - begin

    def _receive(self, token: bytes) -> None:
        """Waits for a message of the one with this name; others may have dialled too late."""
        deadline = time.monotonic() + SILENCE_SECONDS
        while self._socket.recv_multipart()[0] != token:
            if time.monotonic() > deadline:
                raise zmq.Again

    def _close(self) -> None:
        self._socket.close()
        self._context.term()

    def __enter__(self) -> LinkMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()


def send_back(meter: Address, secret: bytes | None, token: bytes) -> None:
    """Dials a meter, and sends back what comes until that is over, or silent for too long."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.ROUTING_ID, token)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, ":" in meter.host)
        _have_room(socket)
        if secret is not None:
            dial_with(socket, secret, JOINER)
        socket.connect(meter.endpoint)
        with suppress(zmq.ZMQError):
            socket.send(SMALL)
            while message := socket.recv():
                socket.send(message)


def _have_room(socket: Socket) -> None:
    """Lets a whole burst wait in a socket, and no wait last for ever."""
    for option in (zmq.SNDHWM, zmq.RCVHWM):
        socket.setsockopt(option, MAX_BURST + 1)
    for option in (zmq.SNDTIMEO, zmq.RCVTIMEO):
        socket.setsockopt(option, int(SILENCE_SECONDS * 1000))
    socket.setsockopt(zmq.MAXMSGSIZE, len(LARGE) + CURVE_BYTES)
