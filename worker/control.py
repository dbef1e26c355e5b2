"""The worker's socket: a DEALER that dials the coordinator."""

from __future__ import annotations

import hashlib
from pathlib import Path

import zmq

from tplaunch.collectives import DIGEST_BYTES
from tplaunch.coordinator.curve import CURVE_BYTES, dial_with
from tplaunch.coordinator.messages import (
    MAX_FRAME_BYTES,
    Message,
    decode,
    encode,
    identity,
    receive_frames,
    send_frames,
)
from tplaunch.worker.head_watch import end_without
from tplaunch.worker.place import WorkerPlace


class ControlSocket:
    """Messages to and from the coordinator, as one rank."""

    def __init__(self, endpoint: str, rank: int, place: WorkerPlace | None = None) -> None:
        """endpoint: ipc:// and a path in the run's private folder, or tcp:// and an address.

        place: by the secret in it worker and coordinator prove themselves to each other over TCP.
        """
        self.place = place or WorkerPlace(str(Path(endpoint.removeprefix("ipc://")).parent))
        self._frames: list[memoryview] = []
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, identity(rank))
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + CURVE_BYTES)
        self._socket.setsockopt(zmq.IPV6, "[" in endpoint)
        if self.place.secret:
            dial_with(self._socket, self.place.secret, identity(rank).decode())
            end_without(self._socket, self.place.silence_seconds)
        self._socket.setsockopt(
            zmq.LINGER, 1000
        )  # a last Failed still gets out, an absent launcher blocks no one
        self._socket.connect(endpoint)

    def send(self, message: Message) -> None:
        """The message may change afterwards."""
        send_frames(self._socket, encode(message))

    def receive(self) -> Message:
        """Waits as long as it takes: this process ends when the launcher's does."""
        self._frames = [frame.buffer for frame in receive_frames(self._socket)]
        return decode(self._frames)

    def digest(self) -> bytes:
        """8 bytes that follow from the message that was received last: the same for all who received it."""
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for frame in self._frames:
            digest.update(frame)
        return digest.digest()

    def close(self) -> None:
        self._socket.close()
        self._context.term()
