"""A job's two pipes: messages of the launcher come in, and answers go out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from typing import Any, BinaryIO, TypeVar

from tplaunch.coordinator.framing import MessageReader, framed
from tplaunch.coordinator.wire import WireError

READ_BYTES = 1 << 16
M = TypeVar("M")


class JobPipe:
    """Reads and writes messages, each when it is asked for."""

    def __init__(self, descriptor: int, output: BinaryIO, kinds: Iterable[type]) -> None:
        """descriptor: of what is read, a pipe or a file. kinds: of the messages that may come."""
        self._descriptor, self._output = descriptor, output
        self._reader = MessageReader(kinds)
        self._received: deque[Any] = deque()

    def receive(self) -> Any:
        """Waits for the next message. Raises WireError for what is none, and where there is no other."""
        while not self._received:
            data = os.read(self._descriptor, READ_BYTES)
            if not data:
                self._reader.close()
                raise WireError("there is no message")
            self._received.extend(self._reader.feed(data))
        return self._received.popleft()

    def expect(self, kind: type[M]) -> M:
        """Waits for the next message, which must be of this type. Raises WireError."""
        message = self.receive()
        if not isinstance(message, kind):
            raise WireError(f"{type(message).__name__} came where {kind.__name__} was expected")
        return message

    def send(self, message: Any) -> None:
        """Sends a message at once."""
        self._output.write(framed(message))
        self._output.flush()
