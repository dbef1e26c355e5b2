"""All-reduce by messages: a ring of ZeroMQ sockets, reduce-scatter and then all-gather, summed in place.

Sums travel round the ring only. Greetings, signs of life and aborts go from each rank straight to
every other, so that a dead rank in the middle of the ring cuts no one off from the news of it.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import zmq
from numpy.typing import NDArray

from tplaunch.collectives.arena import private_arena
from tplaunch.collectives.base import (
    DEFAULT_TIMEOUT_SECONDS,
    Collective,
    CollectiveError,
    CollectiveTimeout,
    aborted,
    check_token,
    encode_reason,
)
from tplaunch.collectives.zmq_doors import Door, FolderDoor, Socket, TcpDoor
from tplaunch.collectives.zmq_wire import (
    PIECE_ELEMENTS,
    Header,
    Kind,
    Message,
    decode_reason,
    parse,
)

_POLL_MILLISECONDS = 20  # how often a waiting rank looks at the clock and for an abort() by another thread
_LINGER_MILLISECONDS = 1000  # how long close() goes on sending what a peer, perhaps dead, has not taken
_MAX_ANNOUNCE_SECONDS = 1.0  # after this a waiting rank tells the others that it is not the missing one


class _Patience:
    """The deadlines of one all-reduce, or of connect() as sequence 0."""

    def __init__(self, sequence: int, timeout_seconds: float, now: float) -> None:
        self.sequence = sequence
        self.end = now + timeout_seconds
        self.announce = now + min(_MAX_ANNOUNCE_SECONDS, timeout_seconds / 2)


class ZmqRing(Collective):
    """num_partials = 1: the sum itself is left in the arena, the same bits on every rank, because each
    chunk is summed along one chain of ranks and then copied."""

    num_partials = 1
    write_slot = 0

    def __init__(
        self,
        *,
        rank: int,
        num_ranks: int,
        slot_bytes: int,
        token: bytes,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        folder: Path | None = None,
        host: str = "127.0.0.1",
        clock: Callable[[], float] | None = None,
    ) -> None:
        """folder: the run's private one (mode 0700), for ranks of one host; None for TCP.

        host: the address to listen on over TCP, which must also be one that the peers can reach.
        clock: seconds, by which this rank loses its patience; by default those in which this process runs.
        """
        super().__init__(
            rank=rank, num_ranks=num_ranks, slot_bytes=slot_bytes, timeout_seconds=timeout_seconds
        )
        check_token(token)
        self.num_foreign_messages = 0  # that were none of the ring's, and were dropped
        self._clock = self._clock if clock is None else clock
        self._left, self._right = (rank - 1) % num_ranks, (rank + 1) % num_ranks
        self._heard = {peer: -1 for peer in range(num_ranks) if peer != rank}  # each peer's latest sequence
        self._chunks: deque[Message] = deque()
        self._lock = threading.Lock()  # a socket is for one thread at a time; abort() may come from another
        self._door: Door = TcpDoor(host, rank, token) if folder is None else FolderDoor(folder, rank)
        self._outboxes: dict[int, Socket] = {}
        self._context: zmq.Context[Socket] = zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self.endpoint = self._listen(host if folder is None else str(folder))
        self._arena = private_arena(self.num_partials, self.slot_bytes)

    def _listen(self, place: str) -> str:
        self._inbox.setsockopt(zmq.RCVTIMEO, _POLL_MILLISECONDS)
        try:
            return self._door.listen(self._inbox)
        except (OSError, zmq.ZMQError) as error:
            self._context.destroy(linger=0)
            self._door.close()
            message = f"rank {self.rank} cannot listen on {place!r}: {error.strerror}"
            raise CollectiveError(message, self.rank) from error

    def connect(self, endpoints: Sequence[str]) -> None:
        self._check_endpoints(endpoints)
        with self._lock:
            for peer in self._heard:
                self._outboxes[peer] = self._push(peer, endpoints[peer])
            self._broadcast(Header(Kind.HELLO, self.rank))
            patience = self._patience(0)
            self._receive_until(lambda: min(self._heard.values(), default=0) >= 0, patience)
        self._connected = True

    def _patience(self, sequence: int) -> _Patience:
        return _Patience(sequence, self.timeout_seconds, self._clock())

    def _push(self, peer: int, endpoint: str) -> Socket:
        outbox = self._context.socket(zmq.PUSH)
        outbox.setsockopt(zmq.SNDHWM, 0)  # sending never waits; the ring itself bounds what can be under way
        outbox.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
        try:
            self._door.dial(outbox, peer, endpoint)
        except zmq.ZMQError as error:
            outbox.close()
            message = f"rank {self.rank} cannot connect to rank {peer} at {endpoint!r}: {error.strerror}"
            raise CollectiveError(message, peer) from error
        return outbox

    def _exchange(self, sequence: int, parity: int, count: int) -> None:
        size = self.num_ranks
        values = self.partials(parity)[0, :count]
        chunks = [values[count * i // size : count * (i + 1) // size] for i in range(size)]
        patience = self._patience(sequence)
        with self._lock:
            for step in range(2 * (size - 1)):
                self._send_chunk(sequence, step, count, chunks[(self.rank - step) % size])
                target = chunks[(self.rank - step - 1) % size]
                self._take_chunk(sequence, step, count, target, patience)

    def _send_chunk(self, sequence: int, step: int, count: int, chunk: NDArray[np.float32]) -> None:
        outbox = self._outboxes[self._right]
        for piece, values in enumerate(_pieces(chunk)):
            header = Header(Kind.CHUNK, self.rank, sequence, step, piece, count)
            outbox.send(header.message(values.data))

    def _take_chunk(
        self, sequence: int, step: int, count: int, target: NDArray[np.float32], patience: _Patience
    ) -> None:
        """The left neighbour's chunk of the same step, added to the target in reduce-scatter, put into it
        in all-gather. Its pieces arrive in the order in which they were sent."""
        for piece, values in enumerate(_pieces(target)):
            due = Header(Kind.CHUNK, self._left, sequence, step, piece, count)
            received = np.frombuffer(self._take_piece(due, values.nbytes, patience), np.float32)
            if step < self.num_ranks - 1:
                np.add(values, received, out=values)
            else:
                values[:] = received

    def _take_piece(self, due: Header, num_bytes: int, patience: _Patience) -> memoryview:
        self._receive_until(lambda: len(self._chunks) > 0, patience)
        message = self._chunks.popleft()
        got, size = message.header, message.payload.nbytes
        if got == due and size == num_bytes:
            return message.payload
        if replace(got, count=due.count) != due:
            fault = (
                f"rank {got.sender} sent {_place(got)} to rank {self.rank},"
                f" which awaits {_place(due)} from rank {due.sender}"
            )
            raise self._tell(CollectiveError(fault, got.sender))
        if got.count != due.count:
            raise self._tell(self._mismatch(due.sequence, due.count, got.sender, got.count))
        fault = f"rank {got.sender} sent {_place(got)} with {size} bytes, not {num_bytes}"
        raise self._tell(CollectiveError(fault, got.sender))

    def _receive_until(self, done: Callable[[], bool], patience: _Patience) -> None:
        """Waits. What has come is heard before the patience counts as lost."""
        while not done():
            if self._failure is not None:  # abort() by another thread
                self._refuse()
            if self._receive():
                continue
            now = self._clock()
            if now >= patience.end:
                raise self._late(patience.sequence)
            if now >= patience.announce:
                self._broadcast(Header(Kind.WAITING, self.rank, patience.sequence))
                patience.announce = math.inf

    def _receive(self) -> bool:
        """Takes in one message of a peer; False where none came within the polling interval."""
        try:
            frame = self._inbox.recv(copy=False)
        except zmq.Again:
            return False
        message = None if frame.more else parse(frame.buffer, self.num_ranks)
        while frame.more:
            frame = self._inbox.recv(copy=False)
        if message is None or message.header.sender == self.rank:
            self.num_foreign_messages += 1
            return False
        header = message.header
        self._heard[header.sender] = max(self._heard[header.sender], header.sequence)
        if header.kind == Kind.ABORT:
            raise aborted(header.sender, decode_reason(message.payload))
        if header.kind == Kind.CHUNK:
            self._chunks.append(message)
        return True

    def _late(self, sequence: int) -> CollectiveTimeout:
        missing = [peer for peer, heard in self._heard.items() if heard < sequence or heard < 0]
        if missing:
            return self._timeout(sequence, missing)
        return self._timeout(sequence, [self._left], ", which came but then fell silent")

    def _tell(self, error: CollectiveError) -> CollectiveError:
        """Tells the others of an error that only a neighbour sees: else they wait until they time out."""
        self._broadcast(Header(Kind.ABORT, self.rank), encode_reason(str(error)))
        return error

    def _broadcast(self, header: Header, payload: bytes = b"") -> None:
        for outbox in self._outboxes.values():
            outbox.send(header.message(payload))

    def abort(self, reason: str) -> None:
        text = encode_reason(reason)
        self._fail(aborted(self.rank, text.decode()))  # first: it makes a waiting thread let go of the lock
        with self._lock:
            self._broadcast(Header(Kind.ABORT, self.rank), text)

    def close(self) -> None:
        self._connected = False
        with self._lock:
            for outbox in self._outboxes.values():
                outbox.close()
            self._outboxes.clear()
            self._inbox.close(linger=0)
            self._context.term()
            self._door.close()
            self._chunks.clear()  # a queued chunk would keep its message alive
            self._arena = None


def _pieces(chunk: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """An empty chunk is one empty piece: its arrival is a barrier, too."""
    return [chunk[start : start + PIECE_ELEMENTS] for start in range(0, max(1, chunk.size), PIECE_ELEMENTS)]


def _place(header: Header) -> str:
    return f"piece {header.piece} of step {header.step} of all-reduce {header.sequence}"
