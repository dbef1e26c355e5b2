"""The ranks of one host in one memory: an arena for all, a barrier, and the news of errors.

The memory is an anonymous memfd: it never has a name, so nothing is left behind, whatever kills a rank.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from tplaunch.collectives.arena import NUM_PARITIES, Backing, arena_view
from tplaunch.collectives.failures import INSTEAD, CollectiveError, timed_out
from tplaunch.collectives.shared_header import TOKEN_BYTES, Line, MakeFlags, SharedHeader, header_bytes

ENDPOINT = re.compile(r"/proc/[0-9]+/fd/[0-9]+")
# Whoever may open the memory could make it shorter otherwise, and every rank that touches it is killed then.
SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
# Yielding answers in 1.7 us, a futex in 4.3; but who yields again and again takes turns with those that need
# the core, the awaited rank perhaps among them. A yield that took long shows that there are such.
_SPIN_SECONDS = 200e-6
_LONG_YIELD_SECONDS = 20e-6
_SLEEP_SECONDS = 0.02  # how often a sleeping rank looks at the clock and at the abort mark

Waiting = Callable[[Sequence[int]], None]  # is told the ranks that are missing, now and then


def _names_a_file(link: str) -> bool:
    """Tells whether a descriptor's link is the path of a file; memory has a name that looks like one."""
    return link.startswith("/") and not link.startswith("/memfd:")


class SharedRanks:
    """One rank's part. The first rank's arena exists at construction, the others' after connect()."""

    def __init__(
        self,
        *,
        member: int,
        ranks: Sequence[int],
        num_slots: int,
        slot_bytes: int,
        token: bytes,
        timeout_seconds: float,
        clock: Callable[[], float],
        make_flags: MakeFlags,
        extra_bytes: int = 0,
    ) -> None:
        """ranks: of all members, for errors. slot_bytes, and extra_bytes behind the arena: whole pages.

        Raises CollectiveError.
        """
        self.member, self.ranks = member, tuple(ranks)
        self.rank = self.ranks[member]
        self.endpoint = ""
        self.arena: NDArray[np.uint8] | None = None
        self._slots = (num_slots, slot_bytes)
        self._token, self._make_flags = token, make_flags
        self._timeout_seconds, self._clock = timeout_seconds, clock
        self._header_bytes = header_bytes(len(self.ranks))
        self.moved_bytes = NUM_PARITIES * num_slots * slot_bytes + extra_bytes
        self._num_bytes = self._header_bytes + self.moved_bytes
        self.extra: NDArray[np.uint8] | None = None
        self.backing: Backing | None = None
        self._header: SharedHeader | None = None
        self._memory: mmap.mmap | None = None
        self._descriptor = -1
        if member == 0:
            self._create()

    def _create(self) -> None:
        try:
            self._descriptor = os.memfd_create("tplaunch-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            reason = f"rank {self.rank} can make no shared memory here ({error.strerror})"
            raise CollectiveError(f"{reason}; {INSTEAD}", self.rank) from error
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
        self._memory = memory = mmap.mmap(descriptor, self._num_bytes)
        self._header = SharedHeader(memory, self.member, len(self.ranks), self._make_flags)
        self.backing = Backing(descriptor, int(np.frombuffer(memory, np.uint8).ctypes.data))
        self.move(None)

    def move(self, memory: mmap.mmap | None) -> None:
        """From now on the arena, and what is behind it, begin other memory that all ranks see.

        memory: of moved_bytes at least; None for where they lay at first. What is in them stays behind; the
        header stays where it is.
        """
        start = 0 if memory is not None else self._header_bytes
        memory = memory if memory is not None else self._memory
        assert memory is not None, "there is no shared memory"
        self.arena = arena_view(memory, start, *self._slots)
        end = start + self.arena.nbytes
        self.extra = np.frombuffer(memory, np.uint8)[end : start + self.moved_bytes]

    def connect(self, endpoint: str) -> None:
        """endpoint: the first rank's. Raises CollectiveTimeout naming those that did not come."""
        if self.member != 0:
            self._open(endpoint)
        self._header_or_error().arrive(1)
        self._await_peers(0, 0, self._timeout_seconds, None)

    def _open(self, path: str) -> None:
        if not ENDPOINT.fullmatch(path):  # it would be another file
            raise self._unusable(path, "that is no process's descriptor")
        try:
            if _names_a_file(str(Path(path).readlink())):
                raise self._unusable(path, "it is a file with a name")
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._unusable(path, error.strerror or "") from error
        try:
            num_bytes = os.fstat(descriptor).st_size
            if num_bytes != self._num_bytes:
                raise self._unusable(path, f"it has {num_bytes} bytes, not {self._num_bytes}")
            if os.pread(descriptor, TOKEN_BYTES, 0) != self._token:
                raise self._unusable(path, "it belongs to another run")
            self._map(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _unusable(self, path: str, fault: str) -> CollectiveError:
        first = self.ranks[0]
        message = f"rank {self.rank} cannot use rank {first}'s shared memory at {path!r}: {fault}"
        return CollectiveError(f"{message}; where ranks don't see each other in /proc, {INSTEAD}", first)

    def meet(
        self,
        exchange: int,
        mark: int,
        sequence: int,
        seconds: float | None = None,
        waiting: Waiting | None = None,
    ) -> dict[int, int]:
        """Passes a barrier; returns the marks of those ranks whose mark is another one.

        exchange: counts all barriers, from 1 on. sequence: the all-reduce that it is part of, or 0.
        """
        header = self._header_or_error()
        header.check_aborted()
        header.set_mark(exchange, mark)
        header.arrive(exchange + 1)
        self._await_peers(exchange, sequence, seconds or self._timeout_seconds, waiting)
        load, parity = header.load, exchange & 1
        different = {}
        for peer in header.peers:  # two marks, so that this one still stands when the peer is one ahead
            peer_mark = load(peer.marks[parity])
            if peer_mark != mark:
                different[self.ranks[peer.rank]] = peer_mark
        return different

    def _await_peers(self, exchange: int, sequence: int, seconds: float, waiting: Waiting | None) -> None:
        """Waits until every peer has arrived at this exchange, or at connect() where it is 0."""
        header = self._header_or_error()
        load = header.load
        end: float | None = None  # by a clock that is looked at by those only who have to wait for long
        for peer in header.peers:
            if load(peer.arrived) > exchange:
                continue
            if end is None:
                if self._spin(header, peer, exchange):
                    continue
                end = self._clock() + seconds  # who is awaited next has had time to spin already
            self._sleep(header, peer, exchange, sequence, end, waiting)

    def _spin(self, header: SharedHeader, peer: Line, exchange: int) -> bool:
        """Tells whether the peer came while this rank had nothing to do and nobody else needed the core."""
        load, word = header.load, peer.arrived
        now = monotonic()
        end = now + _SPIN_SECONDS
        while now < end:
            os.sched_yield()
            if load(word) > exchange:
                return True
            before, now = now, monotonic()
            if now - before > _LONG_YIELD_SECONDS:
                return False
        return False

    def _sleep(
        self,
        header: SharedHeader,
        peer: Line,
        exchange: int,
        sequence: int,
        end: float,
        waiting: Waiting | None,
    ) -> None:
        late = False
        while header.load(peer.arrived) <= exchange:
            header.check_aborted()
            missing = [
                self.ranks[other.rank] for other in header.peers if header.load(other.arrived) <= exchange
            ] or [self.ranks[peer.rank]]
            if late:  # and the flag has been looked at since
                raise timed_out(self.rank, self._timeout_seconds, sequence, missing)
            if waiting is not None:
                waiting(missing)
            seconds_left = end - self._clock()
            late = seconds_left <= 0
            header.sleep_on(peer, exchange + 1, max(0.0, min(seconds_left, _SLEEP_SECONDS)))

    def _header_or_error(self) -> SharedHeader:
        if self._header is None:
            message = f"rank {self.rank} has no shared memory before connect() or after close()"
            raise CollectiveError(message, self.rank)
        return self._header

    def check_aborted(self) -> None:
        """Raises the error that a rank has marked."""
        self._header_or_error().check_aborted()

    def abort(self, error: CollectiveError) -> None:
        """Has all ranks raise this error. From any thread; before connect() it reaches none."""
        header = self._header
        if header is not None:
            header.abort(error)

    def close(self) -> None:
        """Lets go of the memory, which goes with the last view of it. Idempotent."""
        self._header = self._memory = None
        self.arena = self.extra = self.backing = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
