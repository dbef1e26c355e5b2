"""A joining host's connection to the head: dials, beats, and notices silence and a wrong key."""

from __future__ import annotations

import os
import queue
import secrets
import threading
from collections.abc import Sequence

import zmq

from tplaunch.coordinator.curve import CURVE_BYTES, dial_with
from tplaunch.coordinator.wire import WireError
from tplaunch.launcher.hosts.addresses import Address
from tplaunch.launcher.hosts.keys import JOINER
from tplaunch.launcher.hosts.messages import (
    LAST_WORDS,
    MAX_FRAME_BYTES,
    Beat,
    FromHead,
    FromJoiner,
    WantedModel,
    decode_from_head,
    encode,
)
from tplaunch.launcher.hosts.order import Order
from tplaunch.launcher.hosts.post import TICKS_PER_SILENCE, Clerk, Post
from tplaunch.running_clock import RunningClock

SILENCE_SECONDS = 5.0  # of a head that has not said how long it may be silent
TICKS_PER_BEAT = TICKS_PER_SILENCE // 4
IDENTITY_BYTES = 16
RECONNECT_MILLISECONDS = 250
SHUT_SECONDS = (
    4.0  # of connections that are cut before anything was said, for the keys to be called different
)
MOST_SECONDS = 1.0  # what counts of the time between two ticks: in the rest this process was stopped
EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class HeadGone(Exception):
    """The head is lost, or never was one for this host; the sentence goes behind its address.

    passes: another try may find it otherwise.
    """

    def __init__(self, sentence: str, *, passes: bool = True) -> None:
        super().__init__(sentence)
        self.passes = passes


class HeadLink(Clerk):
    """Messages from and to the head. `wake` is readable while there is something to receive."""

    def __init__(self, head: Address, secret: bytes | None) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, secrets.token_bytes(IDENTITY_BYTES))  # the same when it dials again
        socket.setsockopt(zmq.IPV6, ":" in head.host)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MILLISECONDS)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + CURVE_BYTES)
        if secret is not None:
            dial_with(socket, secret, JOINER)
        self._received: queue.SimpleQueue[FromHead] = queue.SimpleQueue()
        self._loss: str | None = None
        self._passes = True  # the loss
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        self._num_silent_ticks, self._ticks_per_silence, self._ticks = 0, TICKS_PER_SILENCE, 0
        self._is_through = False
        self._order, self._order_lock = Order(), threading.Lock()
        self._clock = RunningClock(most_seconds=MOST_SECONDS)  # of the post's thread
        self._shut_since: float | None = None  # by that, when the first connection was cut unheard
        self._post = Post(context, socket, SILENCE_SECONDS / TICKS_PER_SILENCE)
        self._post.monitor(EVENTS)
        socket.connect(head.endpoint)
        self._post.start(self)

    @property
    def wake(self) -> int:
        return self._wake

    @property
    def is_through(self) -> bool:
        """Tells whether the head and this host have proved themselves to each other."""
        return self._is_through

    def send(self, message: FromJoiner) -> None:
        with self._order_lock:
            frames = encode(message)
            self._post.send(frames if isinstance(message, LAST_WORDS) else self._order.numbered(frames))

    def check(self) -> None:
        """Raises HeadGone where the head is lost, as far as is known by now."""
        if self._post.failure is not None:
            raise HeadGone(f"can't be heard any more: {self._post.failure}")
        if self._loss is not None:
            raise HeadGone(self._loss, passes=self._passes)

    def receive(self) -> FromHead | None:
        """Returns a message that has come, None where none has. Raises HeadGone once there are no others."""
        try:
            received = self._received.get_nowait()
        except queue.Empty:
            self.check()
            return None
        os.eventfd_read(self._wake)
        return received

    def close(self) -> None:
        self._post.close()
        os.close(self._wake)

    # In the post's thread.

    def take(self, frames: Sequence[bytes]) -> None:
        self._num_silent_ticks = 0
        try:
            message = decode_from_head(frames)
        except WireError as error:
            self._lose(f"sent {error}", passes=False)
            return
        with self._order_lock:
            if isinstance(message, Beat):
                self._order.hear(message)
            if not self._order.takes(frames):
                return
        if isinstance(message, WantedModel):
            self._post.tick_seconds = message.silence_seconds / TICKS_PER_SILENCE
        if not isinstance(message, Beat):
            self._put(message)

    def tick(self) -> None:
        self._ticks += 1
        with self._order_lock:
            for frames in self._order.again():
                self._post.send(frames)
            if self._is_through and self._order.has_sent and self._ticks % TICKS_PER_BEAT == 0:
                self._post.send(self._order.beat())
        self._num_silent_ticks += self._is_through
        if self._num_silent_ticks > TICKS_PER_SILENCE:
            seconds = self._post.tick_seconds * TICKS_PER_SILENCE
            self._lose(f"said nothing for {seconds:g} s: it is off, frozen, or cut off from the network")
        now = self._clock()
        if self._shut_since is not None and now - self._shut_since > SHUT_SECONDS:
            self._lose(
                "takes no connection with this key: the key file is another one there, only one of the two"
                " sides has one, or what listens there is no tplaunch",
                passes=False,
            )

    def hear(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._is_through, self._shut_since = True, None
        elif event == zmq.EVENT_CLOSED:  # nobody listens there now: who cut the last connection has ended
            self._shut_since = None
        elif event == zmq.EVENT_DISCONNECTED and self._is_through:
            pass  # the silence will tell whether it was more than a moment
        elif event != zmq.EVENT_CONNECTED and not self._is_through and self._shut_since is None:
            self._shut_since = self._clock()

    def _lose(self, why: str, *, passes: bool = True) -> None:
        if self._loss is None:
            self._loss, self._passes = why, passes
            os.eventfd_write(self._wake, 1)

    def _put(self, message: FromHead) -> None:
        os.eventfd_write(self._wake, 1)  # first: who finds the message at once takes this, too
        self._received.put(message)
