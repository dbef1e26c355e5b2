"""The worker's socket: a DEALER that dials the coordinator, and on one host with it a direct line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import zmq

from tplaunch.collectives import DIGEST_BYTES
from tplaunch.coordinator.curve import CURVE_BYTES, dial_with
from tplaunch.coordinator.direct_line import BY_ZMQ, DirectLine, takes
from tplaunch.coordinator.encoding import (
    MAX_FRAME_BYTES,
    decode,
    encode,
    identity,
    receive_frames,
    send_frames,
)
from tplaunch.coordinator.messages import Hello, Message
from tplaunch.worker.head_watch import end_without
from tplaunch.worker.place import WorkerPlace


class ControlSocket:
    """Messages to and from the coordinator, as one rank."""

    def __init__(
        self, endpoint: str, rank: int, place: WorkerPlace | None = None, line: DirectLine | None = None
    ) -> None:
        """endpoint: ipc:// and a path in the run's private folder, or tcp:// and an address.

        place: by the secret in it worker and coordinator prove themselves to each other over TCP. line: to
        the coordinator, where that is the process that has started this one.
        """
        self._line = line
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
        frames, line = encode(message), self._line
        # By a Hello the coordinator's socket gets to know this one.
        if line is not None and takes(frames) and not isinstance(message, Hello):
            line.send(frames[0])
            return
        send_frames(self._socket, frames)
        if line is not None:
            line.send(BY_ZMQ)

    def receive(self) -> Message:
        """Waits as long as it takes: this process ends when the launcher's does."""
        packet = BY_ZMQ if self._line is None else self._line.receive()
        if not packet:
            raise EOFError("the coordinator is gone")
        if packet == BY_ZMQ:
            self._frames = [frame.buffer for frame in receive_frames(self._socket)]
        else:
            self._frames = [memoryview(packet)]
        return decode(self._frames)

    def digest(self) -> bytes:
        """8 bytes that follow from the message that was received last: the same for all who received it."""
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for frame in self._frames:
            digest.update(frame)
        return digest.digest()

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
        self._socket.close()
        self._context.term()
