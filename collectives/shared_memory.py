"""All-reduce among the processes of one host: every rank sees every rank's partial sums, and only flags move.

The memory is an anonymous memfd: it never has a name, so nothing is left behind, whatever kills a rank.
"""

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from time import monotonic

from tplaunch.collectives.arena import NUM_PARITIES, arena_view
from tplaunch.collectives.base import (
    DEFAULT_TIMEOUT_SECONDS,
    INSTEAD,
    TOKEN_BYTES,
    Collective,
    CollectiveError,
    aborted,
    check_token,
    encode_reason,
)
from tplaunch.collectives.flags import flags_for_this_machine
from tplaunch.collectives.shared_header import Line, MakeFlags, SharedHeader, header_bytes

# Whoever may open the memory could make it shorter otherwise, and every rank that touches it is killed then.
SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
# Yielding answers in 1.7 us, a futex in 4.3; but who yields again and again takes turns with those that need
# the core, the awaited rank perhaps among them. A yield that took long shows that there are such.
_SPIN_SECONDS = 200e-6
_LONG_YIELD_SECONDS = 20e-6
_SLEEP_SECONDS = 0.02  # how often a sleeping rank looks at the clock and at the abort mark


class SharedMemory(Collective):
    """num_partials = num_ranks, write_slot = rank: one flag barrier, then every device reads all partials.

    Rank 0's arena exists at construction, the others' after connect(): their endpoint is "".

    Every call of all_reduce() or all_gather() is one exchange: a barrier that a rank enters when its device
    has finished all that it was given before. So a peer is never more than one exchange ahead.

    Two parities are enough, one-shot or in two phases. Say the all-reduces R, S, T follow each other, of
    which R and T share a parity. What is written there for T, first partials, is written after S's first
    exchange returned. By then every rank has entered it, having finished what it read of R: the partials
    one-shot, its slice of them and then the sums in two phases.

    Within a two-phase all-reduce slot 0 is rank 0's partials first, the sums afterwards. A rank overwrites
    its own slice of them after the first exchange, so when they are complete; no other rank reads that
    slice before the second exchange, and of the other slots no one reads anything after it.
    """

    has_two_phases = True

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
        self._header_bytes = header_bytes(num_ranks)
        self._num_bytes = self._header_bytes + NUM_PARITIES * num_ranks * self.slot_bytes
        self._header: SharedHeader | None = None
        self._descriptor = -1
        if rank == 0:
            self._create()

    def _create(self) -> None:
        try:
            self._descriptor = os.memfd_create("tplaunch-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            reason = f"rank 0 can make no shared memory here ({error.strerror})"
            raise CollectiveError(f"{reason}; {INSTEAD}", 0) from error
        try:
            os.ftruncate(self._descriptor, self._num_bytes)
            with contextlib.suppress(OSError):  # emulated kernels may have no seals
                fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, SIZE_SEALS)
            os.pwrite(self._descriptor, self._token, 0)
            self._map(self._descriptor)
        except BaseException:
            self.close()
            raise
        self.endpoint = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def _map(self, descriptor: int) -> None:
        memory = mmap.mmap(descriptor, self._num_bytes)
        self._header = SharedHeader(memory, self.rank, self.num_ranks, self._make_flags)
        self._arena = arena_view(memory, self._header_bytes, self.num_partials, self.slot_bytes)

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
        return CollectiveError(f"{message}; where ranks don't see each other in /proc, {INSTEAD}", 0)

    def _exchange(self, sequence: int, parity: int, count: int) -> None:
        self._meet(sequence, 2 * count)

    def _gather(self, sequence: int, count: int) -> None:
        self._meet(sequence, 2 * count + 1)

    def _meet(self, sequence: int, mark: int) -> None:
        """Pass the barrier; `mark` must be all ranks' mark for this exchange."""
        header = self._header_or_error()
        header.check_aborted()
        header.set_mark(sequence, mark)
        header.arrive(sequence + 1)
        self._await_peers(sequence)
        load, parity = header.load, sequence & 1
        for peer in header.peers:  # two marks, so that this one still stands when the peer is one ahead
            peer_mark = load(peer.marks[parity])
            if peer_mark != mark:
                raise self._mismatch(sequence, mark, peer.rank, peer_mark)

    def _mismatch(self, sequence: int, mark: int, peer: int, peer_mark: int) -> CollectiveError:
        if (mark ^ peer_mark) & 1:
            phases = ("the first phase of one", "the second phase")
            mine, others = phases[mark & 1], phases[peer_mark & 1]
            message = f"all-reduce {sequence} is {mine} on rank {self.rank} but {others} on rank {peer}"
            return CollectiveError(message, peer)
        return super()._mismatch(sequence, mark >> 1, peer, peer_mark >> 1)

    def _await_peers(self, sequence: int) -> None:
        """Wait until every peer has arrived at exchange `sequence`, or at connect() where it is 0."""
        header = self._header_or_error()
        load = header.load
        end: float | None = None  # by a clock that is looked at by those only who have to wait for long
        for peer in header.peers:
            if load(peer.arrived) > sequence:
                continue
            if end is None:
                if self._spin(header, peer, sequence):
                    continue
                end = self._clock() + self.timeout_seconds  # who is awaited next has had time to spin already
            self._sleep(header, peer, sequence, end)

    def _spin(self, header: SharedHeader, peer: Line, sequence: int) -> bool:
        """Tells whether the peer came while this rank had nothing to do and nobody else needed the core."""
        load, word = header.load, peer.arrived
        now = monotonic()
        end = now + _SPIN_SECONDS
        while now < end:
            os.sched_yield()
            if load(word) > sequence:
                return True
            before, now = now, monotonic()
            if now - before > _LONG_YIELD_SECONDS:
                return False
        return False

    def _sleep(self, header: SharedHeader, peer: Line, sequence: int, end: float) -> None:
        late = False
        while header.load(peer.arrived) <= sequence:
            header.check_aborted()
            if late:  # and the flag has been looked at since
                missing = [other.rank for other in header.peers if header.load(other.arrived) <= sequence]
                raise self._timeout(sequence, missing or [peer.rank])
            seconds_left = end - self._clock()
            late = seconds_left <= 0
            header.sleep_on(peer, sequence + 1, max(0.0, min(seconds_left, _SLEEP_SECONDS)))

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
