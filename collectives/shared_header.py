"""The first pages of the shared mapping: where each rank is, who sleeps on whom, and who aborted.

Layout, in 64-byte cache lines: line 0 holds the run's token and the sticky abort mark; line 1 + r is
written by rank r alone (all others read it); then one record a rank with the error that it tells.
"""

import mmap
from collections.abc import Callable
from typing import NamedTuple

from tplaunch.collectives.arena import round_up_to_page
from tplaunch.collectives.failures import MAX_ERROR_BYTES, CollectiveError, decode_error, encode_error
from tplaunch.collectives.flags import WORD_BYTES, Flags, Sleeper

TOKEN_BYTES = 16
_LINE_BYTES = 64
_LINE_WORDS = _LINE_BYTES // WORD_BYTES
_ABORTED_WORD = TOKEN_BYTES // WORD_BYTES  # rank + 1 of a rank that aborted; 0 while none has
_LENGTH_BYTES = 2
_REASON_STRIDE = _LENGTH_BYTES + MAX_ERROR_BYTES

MakeFlags = Callable[[mmap.mmap, int], Flags]


class Line(NamedTuple):
    """Indices of one rank's words."""

    rank: int
    arrived: int  # 1 once connected, 1 + sequence once what that exchange publishes is written
    marks: tuple[int, int]  # of even and of odd sequences: what this rank takes that exchange for
    sleeps_on: int  # rank + 1 of the peer this one sleeps on; 0 while awake


def header_bytes(num_ranks: int) -> int:
    """Whole pages."""
    return round_up_to_page(_LINE_BYTES + (_LINE_BYTES + _REASON_STRIDE) * num_ranks)


def _line(rank: int) -> Line:
    first = (1 + rank) * _LINE_WORDS
    return Line(rank, first, (first + 1, first + 2), first + 3)


class SharedHeader:
    def __init__(self, memory: mmap.mmap, rank: int, num_ranks: int, make_flags: MakeFlags) -> None:
        num_words = header_bytes(num_ranks) // WORD_BYTES
        flags = make_flags(memory, num_words)
        self.load, self.store, self._fence = flags.load, flags.store, flags.fence
        self._memory = memory
        self._sleeper = Sleeper(memory, num_words)
        self._own = _line(rank)
        self._lines = [_line(any_rank) for any_rank in range(num_ranks)]
        self.peers = [line for line in self._lines if line.rank != rank]

    def arrive(self, arrived: int) -> None:
        """Publish this rank's partials, and everything else it stored before."""
        own = self._own
        self.store(own.arrived, arrived)
        # A peer stores sleeps_on, then the kernel's futex looks at `arrived`, behind a barrier of its own.
        # This rank stores `arrived`, then looks at sleeps_on. With a fence between, one of the two sees
        # the other, so no wake-up is lost; without, x86 may look before its store is visible.
        self._fence()
        load, this_rank = self.load, own.rank + 1
        for peer in self.peers:
            if load(peer.sleeps_on) == this_rank:
                self._sleeper.wake(own.arrived)  # wakes all who sleep on it
                break

    def set_mark(self, sequence: int, mark: int) -> None:
        self.store(self._own.marks[sequence & 1], mark)

    def sleep_on(self, peer: Line, arrived: int, max_seconds: float) -> None:
        """Return when the peer's flag has reached `arrived`, when woken, or after max_seconds."""
        self.store(self._own.sleeps_on, peer.rank + 1)
        seen = self.load(peer.arrived)
        if seen < arrived:
            self._sleeper.wait(peer.arrived, seen, max_seconds)
        self.store(self._own.sleeps_on, 0)

    def abort(self, error: CollectiveError) -> None:
        """Marks the error. Of two ranks' marks either may stay, and has its whole error behind it."""
        rank = self._own.rank
        start, told = self._record_start(rank), encode_error(error)
        length = len(told).to_bytes(_LENGTH_BYTES, "little")
        self._memory[start : start + _LENGTH_BYTES + len(told)] = length + told
        if self.load(_ABORTED_WORD) == 0:
            self.store(_ABORTED_WORD, rank + 1)
        for line in self._lines:
            self._sleeper.wake(line.arrived)

    def check_aborted(self) -> None:
        """Raises the error that a rank has marked."""
        mark = self.load(_ABORTED_WORD)
        if mark:
            start = self._record_start(mark - 1)
            text = start + _LENGTH_BYTES
            length = int.from_bytes(self._memory[start:text], "little")
            raise decode_error(self._memory[text : text + min(length, MAX_ERROR_BYTES)])

    def _record_start(self, rank: int) -> int:
        return _LINE_BYTES * (1 + len(self._lines)) + rank * _REASON_STRIDE
