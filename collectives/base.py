"""The promises of every collective: the contract, its errors, and the checks that need no peer.

A device writes its partial sums straight into the collective's arena; the collective only all-reduces
them. Nothing here knows of devices, of processes, or of how endpoints are exchanged.
"""

import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from tplaunch.collectives.arena import Backing, round_up_to_page
from tplaunch.collectives.failures import CollectiveAborted, CollectiveError
from tplaunch.collectives.shared_header import TOKEN_BYTES
from tplaunch.running_clock import RunningClock

DEFAULT_TIMEOUT_SECONDS = 60.0
NOT_REDUCED = -1  # in place of a count: there is nothing to gather


class Way(NamedTuple):
    """How the ranks of several hosts add up."""

    summed: bool = False  # the hosts do, and slot 0 holds the sum; where can_sum
    exact: bool = False  # as float32, whatever wire type there is


class Collective(ABC):
    """One rank's end of an all-reduce among `num_ranks` ranks.

    connect(), all_reduce(), all_gather() and close() belong to one thread; abort() may come from any
    other thread, though not from a signal handler. The first failure is sticky: every later all_reduce()
    raises it again, because after it the ranks no longer agree on where they are.

    One-shot, an all-reduce is a call of all_reduce(), after which every rank adds all partials. In two
    phases every rank then adds all partials of its own slice only, and all_gather() puts the slices together.
    """

    num_partials: int  # how many partial sums the device reads back per all-reduce
    write_slot: int  # which of them this rank writes
    endpoint: str  # where the peers find this rank; exchanged by the caller before connect()
    has_two_phases: bool = False  # whether there is an all_gather()
    can_sum: bool = False  # whether the hosts can add up themselves
    touches_sums: bool = False  # whether hosts read or change partial sums in the arena, as float32
    tells_steps: bool = False  # whether its messages say what step they belong to, for begin_step()
    lap: Callable[[str], None] | None = None  # is told what the time since it was called last went to

    def __init__(
        self,
        *,
        rank: int,
        num_ranks: int,
        slot_bytes: int,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        names: Sequence[int] | None = None,
    ) -> None:
        """names: the ranks' numbers in the whole run, for errors; by default they count from 0."""
        if num_ranks < 1:
            raise ValueError(f"a collective has at least one rank, not {num_ranks}")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} is not one of {num_ranks} ranks, which count from 0")
        if slot_bytes < 1:
            raise ValueError(f"a slot holds at least one byte, not {slot_bytes}")
        if not timeout_seconds > 0:
            raise ValueError(f"the timeout must be more than zero seconds, not {timeout_seconds}")
        self.names = tuple(range(num_ranks) if names is None else names)
        if len(self.names) != num_ranks:
            raise ValueError(f"{len(self.names)} names for {num_ranks} ranks")
        self.rank = rank
        self.name = self.names[rank]
        self.num_ranks = num_ranks
        self.slot_bytes = round_up_to_page(slot_bytes)
        self.timeout_seconds = timeout_seconds
        # This is the clock of deadlines: ranks that were stopped together were not late.
        self._clock: Callable[[], float] = RunningClock()
        self._max_count = self.slot_bytes // 4
        self._arena: NDArray[np.uint8] | None = None
        self._connected = False
        self._failure: CollectiveError | None = None
        self._sequence = 0
        self._parity: int | None = None
        self._count = NOT_REDUCED

    @property
    def sent_bytes(self) -> int:
        """Bytes that this rank has sent to other hosts, with all that they take on the way."""
        return 0

    def begin_step(self, number: int, digest: bytes) -> None:
        """From now on all-reduces belong to this step of the model; digest: 8 bytes of what it computes.

        Ranks of different hosts that are in different steps find out in their next exchange.
        """
        return

    @property
    def backing(self) -> Backing | None:
        """The file behind the arena and the words, where several processes share them."""
        return None

    @property
    def words(self) -> NDArray[np.uint8] | None:
        """Memory of which all ranks' devices make words, words_bytes(num_ranks) of it, where there is any.

        Its first four bytes end all waiting where they are not zero.
        """
        return None

    @property
    def neighbours(self) -> tuple[int, ...]:
        """The ranks whose arena and words are the same memory; without any, this rank alone."""
        return (self.rank,)

    @property
    def moved_bytes(self) -> int:
        """Bytes that move() needs."""
        raise AssertionError(f"{type(self).__name__} shares no memory")

    def move(self, memory: mmap.mmap | None) -> None:
        """From now on the arena and the words begin other memory that all neighbours see; None for where
        they were at first.

        All neighbours do it behind the same all-reduce. What was there is not taken along. Only where there
        are neighbours.
        """
        raise AssertionError(f"{type(self).__name__} shares no memory")

    def confirm(self, sequence: int) -> bool:
        """Behind exchanges that the devices made among themselves: tells all ranks whether all have
        succeeded.

        sequence: as all_reduce() has it; raises what that raises. Only where there are words.
        """
        if self._failure is not None or not self._connected:
            self._refuse()
        if sequence != self._sequence + 1:
            self._refuse_call(sequence, 0, 0)
        self._sequence, self._count = sequence, NOT_REDUCED
        try:
            return self._confirm(sequence)
        except CollectiveError as error:
            self._fail(error)
            raise

    def resume(self) -> None:
        """Devices may wait for each other again; one rank calls it, while no device waits."""
        raise AssertionError(f"{type(self).__name__} has no words")

    def _confirm(self, sequence: int) -> bool:
        """The part of confirm() that needs the peers."""
        raise AssertionError(f"{type(self).__name__} has no words")

    @property
    def arena(self) -> NDArray[np.uint8]:
        """uint8 [2, num_partials or more, slot_bytes]; start and slot_bytes are multiples of the page size.

        Views of it keep the memory mapped after close(). Raises CollectiveError where there is none
        (after close(), and for some kinds before connect()).
        """
        if self._arena is None:
            raise self._not_open("has no arena")
        return self._arena

    def partials(self, parity: int) -> NDArray[np.float32]:
        """One parity's partial sums as float32 [num_partials, slot_bytes / 4]."""
        values: NDArray[np.float32] = self.arena[parity, : self.num_partials].view(np.float32)
        return values

    def own(self, parity: int) -> NDArray[np.float32]:
        """The slot of one parity that this rank writes, as float32 [slot_bytes / 4]."""
        values: NDArray[np.float32] = self.arena[parity, self.write_slot].view(np.float32)
        return values

    @abstractmethod
    def connect(self, endpoints: Sequence[str]) -> None:
        """Reach all ranks; endpoints in rank order. Raises CollectiveTimeout naming those missing."""

    def all_reduce(
        self, sequence: int, parity: int, count: int, *, summed: bool = False, exact: bool = False
    ) -> None:
        """All-reduces the summands: after it, the sum over arena[parity, p, :count float32] for p in
        range(num_partials) is the sum over all ranks; where `summed`, slot 0 alone is.

        exact: nothing is rounded on the way between hosts. Both are the same on all ranks.

        sequence: 1 for the first, then the last one + 1, all_gather() counted too.
        parity: 0 or 1, not that of the last one. arena[parity] may be read once this returns, but not
        written before the next all_reduce() has returned: peers may still be reading or awaiting it.
        count: float32 elements, the same on all ranks; 0 makes it a barrier.

        Raises CollectiveError for a call that does not fit (the next correct one still works) and for
        counts that differ, CollectiveTimeout, and CollectiveAborted.
        """
        if self._failure is not None or not self._connected:
            self._refuse()
        if sequence != self._sequence + 1 or parity == self._parity or not 0 <= count <= self._max_count:
            self._refuse_call(sequence, parity, count)
        assert self.can_sum or not summed, f"{type(self).__name__} can't sum"
        self._sequence, self._parity, self._count = sequence, parity, count
        try:
            self._exchange(sequence, parity, count, Way(summed, exact))
        except CollectiveError as error:
            self._fail(error)
            raise

    def all_gather(self, sequence: int) -> None:
        """The second phase of the last all_reduce(): after it, slot 0 of that parity holds the sum.

        Every rank has before put the sum of all partials, in rank order, of its rank_slice() there: no
        other rank reads that slice of a partial. Only where has_two_phases; raises what all_reduce() raises.
        """
        if self._failure is not None or not self._connected:
            self._refuse()
        count = self._count
        if sequence != self._sequence + 1 or count == NOT_REDUCED or not self.has_two_phases:
            self._refuse_gather(sequence)
        self._sequence, self._count = sequence, NOT_REDUCED
        try:
            self._gather(sequence, count)
        except CollectiveError as error:
            self._fail(error)
            raise

    @abstractmethod
    def _exchange(self, sequence: int, parity: int, count: int, way: Way) -> None:
        """The part of all_reduce() that needs the peers."""

    def _gather(self, sequence: int, count: int) -> None:
        """The part of all_gather() that needs the peers."""
        raise AssertionError(f"{type(self).__name__} has no second phase")

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Make every rank's current and later all_reduce() raise CollectiveAborted naming this rank.

        A rank that already has all that it needs for its current one may end that first. Before connect()
        it reaches this rank alone.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; may be called twice. It does not abort: peers that wait time out."""

    def _fail(self, error: CollectiveError) -> None:
        """Remember the first failure; an abort takes precedence, so that it reads the same on all ranks."""
        if self._failure is None or isinstance(error, CollectiveAborted):
            # A copy: the raised one would keep its frames, and with them the arena, beyond close().
            self._failure = type(error)(str(error), error.rank)

    def _refuse(self) -> NoReturn:
        failure = self._failure
        if failure is None:
            raise self._not_open("called all_reduce()")
        raise type(failure)(str(failure), failure.rank)  # a fresh one, so that tracebacks do not pile up

    def _refuse_call(self, sequence: int, parity: int, count: int) -> NoReturn:
        if sequence != self._sequence + 1:
            fault = f"sequence {sequence} where {self._sequence + 1} was due"
        elif parity == self._parity:
            fault = f"parity {parity} twice in a row, in all-reduces {sequence - 1} and {sequence}"
        else:
            fault = f"{count} elements in all-reduce {sequence}, where a slot holds 0 to {self._max_count}"
        raise CollectiveError(f"rank {self.name} called all_reduce() with {fault}", self.name)

    def _refuse_gather(self, sequence: int) -> NoReturn:
        if not self.has_two_phases:
            fault = f"on {type(self).__name__}, which has no second phase"
        elif self._count == NOT_REDUCED:
            fault = f"as {sequence} without an all_reduce() before it"
        else:
            fault = f"as {sequence} where {self._sequence + 1} was due"
        raise CollectiveError(f"rank {self.name} called all_gather() {fault}", self.name)

    def _not_open(self, what: str) -> CollectiveError:
        return CollectiveError(f"rank {self.name} {what} before connect() or after close()", self.name)

    def _check_endpoints(self, endpoints: Sequence[str]) -> None:
        if len(endpoints) != self.num_ranks:
            raise ValueError(f"connect() takes {self.num_ranks} endpoints, one a rank, not {len(endpoints)}")


def check_token(token: bytes) -> bytes:
    if len(token) != TOKEN_BYTES:
        raise ValueError(f"the run's token has {TOKEN_BYTES} bytes, not {len(token)}")
    return token
