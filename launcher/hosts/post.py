"""A thread that owns a socket between hosts: it takes in what comes, sends what others hand it, and ticks.

Beats go out from it whatever the rest of the process does. Knows nothing of what the messages say.
"""

from __future__ import annotations

import math
import os
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress

import zmq

from tplaunch.coordinator.curve import Socket
from tplaunch.coordinator.wire import Frame
from tplaunch.launcher.headroom import allow_descriptors

TICKS_PER_SILENCE = 16  # how finely silence is measured
MAX_BURST = 256  # messages that are taken in between two looks at the clock
MAX_CONNECTIONS = 1 << 14  # of strangers, who are cut off in seconds; each takes some kilobytes
LINGER_MILLISECONDS = 1000  # for last words


class Clerk(ABC):
    """Deals with what a Post brings, in the Post's thread."""

    @abstractmethod
    def take(self, frames: Sequence[bytes]) -> None:
        """A message has come."""

    @abstractmethod
    def tick(self) -> None:
        """The time between two ticks has passed. Time in which the process was stopped does not count."""

    def hear(self, event: int) -> None:  # noqa: B027 - most need not know
        """Something has happened to the connection, by its number of zmq_socket_monitor(3)."""

    def miss(self, frames: Sequence[Frame]) -> None:  # noqa: B027 - only a server has several to send to
        """A message could not be sent: nobody of the identity in its first frame is connected."""


class Post:
    """The thread, from `start` to `close`."""

    def __init__(self, context: zmq.Context[Socket], socket: Socket, tick_seconds: float) -> None:
        """The context and the socket belong to it from now on. The socket is not bound or connected yet.

        Whoever has one takes part in a run over hosts, and with the processes that it starts gets room for
        connections: at the limit of open files ZeroMQ's thread would try to accept the next one for ever.
        """
        allow_descriptors(MAX_CONNECTIONS)
        self._context, self._socket, self.tick_seconds = context, socket, tick_seconds
        self._socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
        self._outgoing: queue.SimpleQueue[Sequence[Frame]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = False
        self._lock = threading.Lock()  # of the descriptor: its number may be another one's once it is closed
        self._is_closed = False
        self._monitor: Socket | None = None
        self._thread: threading.Thread | None = None
        self.failure: Exception | None = None  # what has ended the thread

    def monitor(self, events: int) -> None:
        """Has these events of the socket heard. Before `start`."""
        self._monitor = self._socket.get_monitor_socket(events)

    def start(self, clerk: Clerk) -> None:
        self._thread = threading.Thread(target=self._run, args=(clerk,), name="tplaunch hosts", daemon=True)
        self._thread.start()

    def send(self, frames: Sequence[Frame]) -> None:
        """Sends a message; any thread may, also too late. Whoever can't be reached does not get it."""
        with self._lock:
            if not self._is_closed:
                self._outgoing.put(frames)
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Sends what was handed to it, waits a moment until that has gone, and gives everything back."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()
        with self._lock:
            self._is_closed = True
            os.close(self._wake)

    def _run(self, clerk: Clerk) -> None:
        try:
            self._serve(clerk)
        except Exception as error:  # the others must learn of it: nobody would be heard any more
            self.failure = error

    def _serve(self, clerk: Clerk) -> None:
        poller = zmq.Poller()
        for source in (self._socket, self._wake, self._monitor):
            if source is not None:
                poller.register(source, zmq.POLLIN)
        next_tick = time.monotonic() + self.tick_seconds
        while True:
            poller.poll(max(0, math.ceil((next_tick - time.monotonic()) * 1000)))
            is_last = self._closing
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            self._send_all(clerk)
            if is_last:
                return
            self._take_in(clerk)
            next_tick = min(next_tick, time.monotonic() + self.tick_seconds)  # which may be shorter by now
            if time.monotonic() >= next_tick:
                clerk.tick()
                next_tick = time.monotonic() + self.tick_seconds

    def _send_all(self, clerk: Clerk) -> None:
        while True:
            try:
                frames = self._outgoing.get_nowait()
            except queue.Empty:
                return
            try:
                self._socket.send_multipart(list(frames), zmq.NOBLOCK)
            except zmq.Again:
                pass  # it takes nothing any more: its silence will be noticed
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                clerk.miss(frames)

    def _take_in(self, clerk: Clerk) -> None:
        for _ in range(MAX_BURST):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            clerk.take(frames)
        while self._monitor is not None and self._monitor.poll(0):
            event, _ = self._monitor.recv_multipart(zmq.NOBLOCK)
            clerk.hear(int.from_bytes(event[:2], sys.byteorder))
