"""The links among the members of an exchange, each a rank: ZeroMQ sockets, of which each has one inbox.

A member's outboxes lead to every other member, so that a dead one cuts no one off from the news of it. Here
messages are sent, awaited and held against what is due; one_shot.py and ring.py say which there are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import zmq

from tplaunch.collectives.failures import (
    CollectiveError,
    CollectiveTimeout,
    decode_error,
    encode_error,
    timed_out,
)
from tplaunch.collectives.faults import fault_of
from tplaunch.collectives.patience import Patience
from tplaunch.collectives.wire_types import WireType
from tplaunch.collectives.zmq_doors import Door, Socket
from tplaunch.collectives.zmq_wire import (
    HEADER_BYTES,
    NO_DIGEST,
    Header,
    Kind,
    Message,
    decode_ranks,
    encode_ranks,
    is_due,
    parse,
    run_number,
)

_POLL_MILLISECONDS = 20  # how often a waiting rank looks at the clock and for an abort() by another thread
_LINGER_MILLISECONDS = 1000  # how long close() goes on sending what a peer, perhaps dead, has not taken


@dataclass(frozen=True)
class Exchange:
    """All messages of one all-reduce have these in common."""

    sequence: int
    count: int  # float32 elements
    wire: WireType
    patience: Patience


class Links:
    """One member's sockets. All methods but abort() belong to one thread."""

    def __init__(
        self,
        member: int,
        ranks: Sequence[int],
        door: Door,
        token: bytes,
        wire: WireType,
        timeout_seconds: float,
        clock: Callable[[], float],
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """ranks: of all members. interrupt: called while waiting; it raises where waiting is in vain.

        Raises CollectiveError where this member cannot listen.
        """
        self.member, self.ranks = member, tuple(ranks)
        self.peers = tuple(peer for peer in range(len(self.ranks)) if peer != member)
        self.num_foreign_messages = 0  # that were none of the members', and were dropped
        self.sent_bytes = 0  # to all peers, with headers and what the encryption adds
        self._timeout_seconds, self._clock, self._interrupt = timeout_seconds, clock, interrupt
        self._run, self._wire = run_number(token), wire
        self._step, self._digest = 0, NO_DIGEST
        self._heard = dict.fromkeys(self.peers, -1)  # each peer's latest sequence
        self._awaited: dict[int, tuple[int, tuple[int, ...]]] = {}  # a sequence, and the ranks a peer misses
        self._pieces: dict[int, deque[Message]] = {peer: deque() for peer in self.peers}
        self._lock = threading.Lock()  # a socket is for one thread at a time; abort() may come from another
        self._door = door
        self._outboxes: dict[int, Socket] = {}
        self._context: zmq.Context[Socket] = zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.setsockopt(zmq.RCVTIMEO, _POLL_MILLISECONDS)
        try:
            self.endpoint = door.listen(self._inbox)
        except (OSError, zmq.ZMQError) as error:
            self._context.destroy(linger=0)
            door.close()
            message = f"rank {self.rank} cannot listen on {door.place!r}: {error.strerror}"
            raise CollectiveError(message, self.rank) from error

    @property
    def rank(self) -> int:
        return self.ranks[self.member]

    def begin_step(self, number: int, digest: bytes) -> None:
        """From now on messages belong to this step of the model."""
        self._step, self._digest = number % (1 << 32), digest

    def connect(self, endpoints: Sequence[str]) -> None:
        """endpoints: of all members. Raises CollectiveTimeout naming those that did not come."""
        with self._lock:
            for peer in self.peers:
                self._outboxes[peer] = self._push(peer, endpoints[peer])
            self._broadcast(self._header(Kind.HELLO))
            patience = self.patience(0)
            self._receive_until(lambda: min(self._heard.values(), default=0) >= 0, patience)

    def _push(self, peer: int, endpoint: str) -> Socket:
        outbox = self._context.socket(zmq.PUSH)
        outbox.setsockopt(zmq.SNDHWM, 0)  # sending never waits; the exchange itself bounds what is under way
        outbox.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
        try:
            self._door.dial(outbox, self.ranks[peer], endpoint)
        except zmq.ZMQError as error:
            outbox.close()
            rank = self.ranks[peer]
            message = f"rank {self.rank} cannot connect to rank {rank} at {endpoint!r}: {error.strerror}"
            raise CollectiveError(message, rank) from error
        return outbox

    def patience(self, sequence: int) -> Patience:
        return Patience(sequence, self._timeout_seconds, self._clock())

    def __enter__(self) -> Links:
        """Takes the sockets for an all-reduce: send() and take() need them."""
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def send(
        self, peers: Sequence[int], exchange: Exchange, hop: int, piece: int, payload: bytes | memoryview
    ) -> None:
        """Sends a piece, a copy of it, without waiting."""
        message = self._due(exchange, self.member, hop, piece).message(payload)
        for peer in peers:
            self._send(peer, message)

    def take(self, peer: int, exchange: Exchange, hop: int, piece: int, num_bytes: int) -> memoryview:
        """Waits for a peer's piece. Raises CollectiveTimeout, and where another one comes CollectiveError:
        all members raise it then."""
        due = self._due(exchange, peer, hop, piece)
        pieces = self._pieces[peer]
        if not pieces:
            frame = self._next_frame()
            if frame is not None and is_due(frame, due.fields(), num_bytes):  # most are, and need no parsing
                self._heard[peer] = exchange.sequence
                return frame[HEADER_BYTES:]
            if frame is not None:
                self._hear(frame)
            self._receive_until(lambda: len(pieces) > 0, exchange.patience, peer)
        message = pieces.popleft()
        if message.header == due and message.is_intact and message.payload.nbytes == num_bytes:
            return message.payload
        raise self._tell(fault_of(message, due, num_bytes, self.ranks, self.rank))

    def _due(self, exchange: Exchange, sender: int, hop: int, piece: int) -> Header:
        step, digest, run = self._step, self._digest, self._run
        sequence, count, wire = exchange.sequence, exchange.count, exchange.wire.number
        return Header(Kind.PIECE, sender, sequence, hop, piece, count, wire, step, digest, run)

    def _header(self, kind: Kind, sequence: int = 0) -> Header:
        """Returns the header of a message that is no piece."""
        wire, step, digest, run = self._wire.number, self._step, self._digest, self._run
        return Header(kind, self.member, sequence, 0, 0, 0, wire, step, digest, run)

    def _receive_until(self, done: Callable[[], bool], patience: Patience, peer: int | None = None) -> None:
        """Waits. What has come is heard before the patience counts as lost."""
        while not done():
            try:
                self._interrupt()
            except CollectiveError as error:
                raise self._tell(error) from None
            if self._receive():
                continue
            now = self._clock()
            if patience.is_lost(now):
                raise self._late(patience.sequence, peer)
            if patience.announces(now):
                self._broadcast(self._header(Kind.WAITING, patience.sequence))

    def _receive(self) -> bool:
        """Takes in one message of a peer; False where none came within the polling interval."""
        frame = self._next_frame()
        return frame is not None and self._hear(frame)

    def _next_frame(self) -> memoryview | None:
        """A message, which has one frame; None where none came within the polling interval."""
        try:
            frame = self._inbox.recv(copy=False)
        except zmq.Again:
            return None
        first, is_whole = frame.buffer, not frame.more
        while frame.more:
            frame = self._inbox.recv(copy=False)
        if is_whole:
            return first
        self.num_foreign_messages += 1
        return None

    def _hear(self, frame: memoryview) -> bool:
        """Takes in a message; False for one that is no peer's."""
        message = parse(frame, self.ranks)
        if message is None or message.header.sender == self.member:
            self.num_foreign_messages += 1
            return False
        header = message.header
        peer, kind = header.sender, header.kind
        greets_wrong = kind == Kind.HELLO and header.wire != self._wire.number
        if header.run != self._run or not message.is_intact or greets_wrong:
            due = header._replace(run=self._run, wire=self._wire.number)
            raise self._tell(fault_of(message, due, message.payload.nbytes, self.ranks, self.rank))
        self._heard[peer] = max(self._heard[peer], header.sequence)
        if kind == Kind.ABORT:
            raise decode_error(bytes(message.payload))
        if kind == Kind.WAITING:
            self._awaited[peer] = header.sequence, decode_ranks(message.payload)
        if kind == Kind.PIECE:
            self._pieces[peer].append(message)
        return True

    def _late(self, sequence: int, awaited: int | None) -> CollectiveTimeout:
        """Blames those that did not come; of a peer that came but waits for ranks of its own, those."""
        missing: set[int] = set()
        for peer, heard in self._heard.items():
            at, ranks = self._awaited.get(peer, (-1, ()))
            if heard < sequence or heard < 0:
                missing.add(self.ranks[peer])
            elif at == sequence:
                missing.update(ranks)
        if missing or awaited is None:
            return timed_out(self.rank, self._timeout_seconds, sequence, missing or {self.rank})
        silent = (self.ranks[awaited],)
        return timed_out(
            self.rank, self._timeout_seconds, sequence, silent, ", which came but then fell silent"
        )

    def announce(self, sequence: int, missing: Sequence[int]) -> None:
        """Tells all peers that this rank has come to an all-reduce, and waits for ranks of its own host."""
        with self._lock:
            self._broadcast(self._header(Kind.WAITING, sequence), encode_ranks(missing))

    def _tell(self, error: CollectiveError) -> CollectiveError:
        """Tells the others of an error that only one member sees: else they wait until they time out."""
        self._broadcast(self._header(Kind.ABORT), encode_error(error))
        return error

    def abort(self, error: CollectiveError) -> None:
        """Has all peers raise this error. From any thread, once a waiting one has been interrupted."""
        with self._lock:
            self._tell(error)

    def _broadcast(self, header: Header, payload: bytes = b"") -> None:
        message = header.message(payload)
        for peer in self._outboxes:
            self._send(peer, message)

    def _send(self, peer: int, message: bytes) -> None:
        self._outboxes[peer].send(message)
        self.sent_bytes += len(message) + self._door.overhead_bytes

    def close(self) -> None:
        """Lets go of everything. Idempotent."""
        with self._lock:
            for outbox in self._outboxes.values():
                outbox.close()
            self._outboxes.clear()
            self._inbox.close(linger=0)
            self._context.term()
            self._door.close()
            for pieces in self._pieces.values():
                pieces.clear()  # a queued piece would keep its message alive
