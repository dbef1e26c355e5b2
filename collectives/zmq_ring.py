"""All-reduce over TCP: a ring of ZeroMQ sockets, reduce-scatter and then all-gather, summed in place.

Sums travel round the ring only. Greetings, signs of life and aborts go from each rank straight to
every other, so that a dead rank in the middle of the ring cuts no one off from the news of it.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence

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
from tplaunch.collectives.zmq_wire import Header, Kind, Message, decode_reason, parse
from tplaunch.running_clock import RunningClock

_POLL_MILLISECONDS = 20  # how often a waiting rank looks at the clock and for an abort() by another thread
_LINGER_MILLISECONDS = 1000  # how long close() goes on sending what a peer, perhaps dead, has not taken
_MAX_ANNOUNCE_SECONDS = 1.0  # after this a waiting rank tells the others that it is not the missing one


class _Patience:
    """The deadlines of one all-reduce, or of connect() as sequence 0."""

    def __init__(self, sequence: int, timeout_seconds: float, clock: RunningClock) -> None:
        now = clock()
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
        host: str = "127.0.0.1",
    ) -> None:
        """host: the address to listen on, which must also be one that the peers can reach."""
        super().__init__(
            rank=rank, num_ranks=num_ranks, slot_bytes=slot_bytes, timeout_seconds=timeout_seconds
        )
        self.num_foreign_messages = 0  # dropped, because anyone can connect to a socket
        self._token = check_token(token)
        self._left, self._right = (rank - 1) % num_ranks, (rank + 1) % num_ranks
        self._heard = {peer: -1 for peer in range(num_ranks) if peer != rank}  # each peer's latest sequence
        self._chunks: deque[Message] = deque()
        self._lock = threading.Lock()  # a socket is for one thread at a time; abort() may come from another
        self._outboxes: dict[int, zmq.Socket[bytes]] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox = self._bind(host)
        self.endpoint = self._inbox.getsockopt_string(zmq.LAST_ENDPOINT)
        self._arena = private_arena(self.num_partials, self.slot_bytes)

    def _bind(self, host: str) -> zmq.Socket[bytes]:
        inbox = self._context.socket(zmq.PULL)
        inbox.setsockopt(zmq.RCVTIMEO, _POLL_MILLISECONDS)
        inbox.setsockopt(zmq.MAXMSGSIZE, self.slot_bytes)  # a stranger cannot make this rank allocate more
        try:
            inbox.bind(f"tcp://{host}:*")
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            message = f"rank {self.rank} cannot listen on {host!r}: {error.strerror}"
            raise CollectiveError(message, self.rank) from error
        return inbox

    def connect(self, endpoints: Sequence[str]) -> None:
        self._check_endpoints(endpoints)
        with self._lock:
            for peer in self._heard:
                self._outboxes[peer] = self._push(peer, endpoints[peer])
            self._broadcast(Header(Kind.HELLO, self.rank))
            patience = _Patience(0, self.timeout_seconds, self._clock)
            self._receive_until(lambda: min(self._heard.values(), default=0) >= 0, patience)
        self._connected = True

    def _push(self, peer: int, endpoint: str) -> zmq.Socket[bytes]:
        outbox = self._context.socket(zmq.PUSH)
        outbox.setsockopt(zmq.SNDHWM, 0)  # sending never waits; the ring itself bounds what can be under way
        outbox.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
        try:
            outbox.connect(endpoint)
        except zmq.ZMQError as error:
            outbox.close()
            message = f"rank {self.rank} cannot connect to rank {peer} at {endpoint!r}: {error.strerror}"
            raise CollectiveError(message, peer) from error
        return outbox

    def _exchange(self, sequence: int, parity: int, count: int) -> None:
        size = self.num_ranks
        values = self.partials(parity)[0, :count]
        chunks = [values[count * i // size : count * (i + 1) // size] for i in range(size)]
        patience = _Patience(sequence, self.timeout_seconds, self._clock)
        with self._lock:
            for step in range(2 * (size - 1)):
                header = Header(Kind.CHUNK, self.rank, sequence, step, count)
                self._send_chunk(header, chunks[(self.rank - step) % size])
                target = chunks[(self.rank - step - 1) % size]
                received = self._take_chunk(header, target.nbytes, patience)
                if step < size - 1:  # reduce-scatter
                    np.add(target, received, out=target)
                else:  # all-gather
                    target[:] = received

    def _send_chunk(self, header: Header, chunk: NDArray[np.float32]) -> None:
        """Large chunks are sent from where they lie (pyzmq copies those under 64 KiB), without waiting for
        ZeroMQ to be done with them, because nothing overwrites a chunk that is not yet at its receiver:

        - what goes out in reduce-scatter is overwritten by the finished sum of that chunk, which contains
          it and so exists only after the right neighbour has received it;
        - what goes out in all-gather is overwritten two all-reduces later, by the device, and none
          returns before every rank has entered it, having received all of the one before.
        """
        outbox = self._outboxes[self._right]
        outbox.send(header.pack(self._token), zmq.SNDMORE)
        outbox.send(chunk.data, copy=False)

    def _take_chunk(self, sent: Header, num_bytes: int, patience: _Patience) -> NDArray[np.float32]:
        """The left neighbour's chunk of the same step; its messages arrive in the order it sent them."""
        self._receive_until(lambda: len(self._chunks) > 0, patience)
        message = self._chunks.popleft()
        got = message.header
        if (got.sender, got.sequence, got.step) != (self._left, sent.sequence, sent.step):
            fault = (
                f"rank {got.sender} sent step {got.step} of all-reduce {got.sequence} to rank {self.rank},"
                f" which awaits step {sent.step} of all-reduce {sent.sequence} from rank {self._left}"
            )
            raise self._tell(CollectiveError(fault, got.sender))
        if got.count != sent.count or message.payload.nbytes != num_bytes:
            raise self._tell(self._mismatch(sent.sequence, sent.count, got.sender, got.count))
        return np.frombuffer(message.payload, np.float32)

    def _receive_until(self, done: Callable[[], bool], patience: _Patience) -> None:
        late = False
        while not done():
            if self._failure is not None:  # abort() by another thread
                self._refuse()
            if late:  # and the inbox has been looked at since
                raise self._late(patience.sequence)
            now = self._clock()
            late = now >= patience.end
            if now >= patience.announce:
                self._broadcast(Header(Kind.WAITING, self.rank, patience.sequence))
                patience.announce = math.inf
            self._receive()

    def _receive(self) -> None:
        """Take in one message, or none within the polling interval."""
        try:
            frames = self._inbox.recv_multipart(copy=False)
        except zmq.Again:
            return
        message = parse(frames, self._token, self.num_ranks)
        if message is None or message.header.sender == self.rank:
            self.num_foreign_messages += 1
            return
        header = message.header
        self._heard[header.sender] = max(self._heard[header.sender], header.sequence)
        if header.kind == Kind.ABORT:
            raise aborted(header.sender, decode_reason(message.payload))
        if header.kind == Kind.CHUNK:
            self._chunks.append(message)

    def _late(self, sequence: int) -> CollectiveTimeout:
        missing = [peer for peer, heard in self._heard.items() if heard < sequence or heard < 0]
        if missing:
            return self._timeout(sequence, missing)
        return self._timeout(sequence, [self._left], ", which came but then fell silent")

    def _tell(self, error: CollectiveError) -> CollectiveError:
        """Only a neighbour sees such an error; the others must not wait for this rank until they time out."""
        self._broadcast(Header(Kind.ABORT, self.rank), encode_reason(str(error)))
        return error

    def _broadcast(self, header: Header, payload: bytes = b"") -> None:
        for outbox in self._outboxes.values():
            outbox.send_multipart([header.pack(self._token), payload])

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
            self._chunks.clear()  # a queued chunk would keep its message alive
            self._arena = None
