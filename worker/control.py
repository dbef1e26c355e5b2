"""The worker's socket: a DEALER that dials the coordinator."""

from __future__ import annotations

import zmq

from tplaunch.coordinator.messages import Message, decode, encode


class ControlSocket:
    """Messages to and from the coordinator, as one rank."""

    def __init__(self, endpoint: str, rank: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, f"rank-{rank}".encode())
        self._socket.setsockopt(
            zmq.LINGER, 1000
        )  # a last Failed still gets out, an absent launcher blocks no one
        self._socket.connect(endpoint)

    def send(self, message: Message) -> None:
        """The message may change afterwards."""
        self._socket.send_multipart(encode(message))

    def receive(self) -> Message:
        """Waits as long as it takes: this process ends when the launcher's does."""
        return decode(self._socket.recv_multipart())

    def close(self) -> None:
        self._socket.close()
        self._context.term()
