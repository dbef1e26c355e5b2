"""All-reduce among the processes of one host: every rank sees every rank's partial sums, and only flags move.

The memory is an anonymous memfd: it never has a name, so nothing is left behind, whatever kills a rank.
"""

import mmap
import os
from collections.abc import Sequence
from time import monotonic

from collectives.arena import NUM_PARITIES, arena_view
from collectives.base import (
    DEFAULT_TIMEOUT_SECONDS,
    TOKEN_BYTES,
    Collective,
    CollectiveError,
    aborted,
    check_token,
    encode_reason,
)
from collectives.flags import flags_for_this_machine
from collectives.shared_header import HEADER_BYTES, Line, MakeFlags, SharedHeader

# Yielding answers in 1.7 us, a futex in 4.3, but a long spin takes the core from whoever is awaited.
_SPIN_SECONDS = 200e-6
_SLEEP_SECONDS = 0.02  # how often a sleeping rank looks at the clock and at the abort mark


class SharedMemory(Collective):
    """num_partials = num_ranks, write_slot = rank: one flag barrier, then every device reads all partials.

    Rank 0's arena exists at construction, the others' after connect(): their endpoint is "".

    Two parities are enough. A peer writes partials of all-reduce s + 2 only after s + 1 returned to it, so
    after this rank arrived at s + 1, which it does when its device has finished the segment that began by
    reading the partials of s. For the same reason a peer is never more than one all-reduce ahead.
    """

    def __init__(
        self,
        *,
        rank: int,
        num_ranks: int,
        slot_bytes: int,
        token: bytes,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        make_flags: MakeFlags = flags_for_this_machine,
    ) -> None:
        super().__init__(
            rank=rank, num_ranks=num_ranks, slot_bytes=slot_bytes, timeout_seconds=timeout_seconds
        )
        self.num_partials = num_ranks
        self.write_slot = rank
        self.endpoint = ""
        self._token = check_token(token)
        self._make_flags = make_flags
        self._num_bytes = HEADER_BYTES + NUM_PARITIES * num_ranks * self.slot_bytes
        self._header: SharedHeader | None = None
        self._descriptor = -1
        if rank == 0:
            self._create()

    def _create(self) -> None:
        self._descriptor = os.memfd_create("tplaunch-arena")
        try:
            os.ftruncate(self._descriptor, self._num_bytes)
            os.pwrite(self._descriptor, self._token, 0)
            self._map(self._descriptor)
        except BaseException:
            self.close()
            raise
        self.endpoint = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def _map(self, descriptor: int) -> None:
        memory = mmap.mmap(descriptor, self._num_bytes)
        self._header = SharedHeader(memory, self.rank, self.num_ranks, self._make_flags)
        self._arena = arena_view(memory, HEADER_BYTES, self.num_partials, self.slot_bytes)

    def connect(self, endpoints: Sequence[str]) -> None:
        self._check_endpoints(endpoints)
        if self.rank != 0:
            self._open(endpoints[0])
        self._header_or_error().arrive(1)
        self._await_peers(0)
        self._connected = True

    def _open(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise self._unusable(path, error.strerror or "") from error
        try:
            num_bytes = os.fstat(descriptor).st_size
            if num_bytes != self._num_bytes:
                raise self._unusable(path, f"it has {num_bytes} bytes, not {self._num_bytes}")
            if os.pread(descriptor, TOKEN_BYTES, 0) != self._token:
                raise self._unusable(path, "it belongs to another run")
            self._map(descriptor)
        finally:
            os.close(descriptor)

    def _unusable(self, path: str, fault: str) -> CollectiveError:
        message = f"rank {self.rank} cannot use rank 0's shared memory at {path!r}: {fault}"
        return CollectiveError(f"{message}; between hosts, containers or users choose another collective", 0)

    def _exchange(self, sequence: int, parity: int, count: int) -> None:
        header = self._header_or_error()
        header.check_aborted()
        header.set_count(parity, count)
        header.arrive(sequence + 1)
        self._await_peers(sequence)
        load = header.load
        for peer in header.peers:  # a count a parity, so that it still stands when the peer is one ahead
            peer_count = load(peer.counts[parity])
            if peer_count != count:
                raise self._mismatch(sequence, count, peer.rank, peer_count)

    def _await_peers(self, sequence: int) -> None:
        """Wait until every peer has arrived at all-reduce `sequence`, or at connect() where it is 0."""
        header = self._header_or_error()
        start, load = monotonic(), header.load
        for peer in header.peers:
            if load(peer.arrived) <= sequence and not self._spin(header, peer, sequence):
                self._sleep(header, peer, sequence, start + self.timeout_seconds)

    def _spin(self, header: SharedHeader, peer: Line, sequence: int) -> bool:
        end, load, word = monotonic() + _SPIN_SECONDS, header.load, peer.arrived
        while monotonic() < end:
            os.sched_yield()
            if load(word) > sequence:
                return True
        return False

    def _sleep(self, header: SharedHeader, peer: Line, sequence: int, end: float) -> None:
        while header.load(peer.arrived) <= sequence:
            header.check_aborted()
            seconds_left = end - monotonic()
            if seconds_left <= 0:
                missing = [other.rank for other in header.peers if header.load(other.arrived) <= sequence]
                raise self._timeout(sequence, missing or [peer.rank])
            header.sleep_on(peer, sequence + 1, min(seconds_left, _SLEEP_SECONDS))

    def _header_or_error(self) -> SharedHeader:
        if self._header is None:
            raise self._not_open("has no shared memory")
        return self._header

    def abort(self, reason: str) -> None:
        text = encode_reason(reason)
        self._fail(aborted(self.rank, text.decode()))
        header = self._header
        if header is not None:
            header.abort(text)

    def close(self) -> None:
        # The mapping goes with the last view of it: unmapping under a caller's view would be a crash.
        self._connected = False
        self._header = None
        self._arena = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
