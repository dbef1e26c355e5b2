"""All-reduce among the processes of one host: each sees every rank's partial sums, and only flags move."""

import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tplaunch.collectives.arena import Backing, words_bytes
from tplaunch.collectives.base import DEFAULT_TIMEOUT_SECONDS, Collective, Way, check_token
from tplaunch.collectives.failures import CollectiveError, aborted, counts_differ
from tplaunch.collectives.flags import flags_for_this_machine
from tplaunch.collectives.shared_header import MakeFlags
from tplaunch.collectives.shared_ranks import SharedRanks

# Marks of a barrier behind a step, and of one in which a device gave up: no number of elements is as large.
CONFIRMING, GIVEN_UP = 2**62, 2**62 + 1


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
        names: Sequence[int] | None = None,
        make_flags: MakeFlags = flags_for_this_machine,
    ) -> None:
        super().__init__(
            rank=rank,
            num_ranks=num_ranks,
            slot_bytes=slot_bytes,
            timeout_seconds=timeout_seconds,
            names=names,
        )
        self.num_partials = num_ranks
        self.write_slot = rank
        self._shared = SharedRanks(
            member=rank,
            ranks=self.names,
            num_slots=num_ranks,
            slot_bytes=self.slot_bytes,
            token=check_token(token),
            timeout_seconds=timeout_seconds,
            clock=self._clock,
            make_flags=make_flags,
            extra_bytes=words_bytes(num_ranks),
        )
        self.endpoint, self._arena = self._shared.endpoint, self._shared.arena

    def connect(self, endpoints: Sequence[str]) -> None:
        self._check_endpoints(endpoints)
        self._shared.connect(endpoints[0])
        self._arena = self._shared.arena
        self._connected = True

    @property
    def backing(self) -> Backing | None:
        return self._shared.backing

    @property
    def words(self) -> NDArray[np.uint8] | None:
        return self._shared.extra

    @property
    def neighbours(self) -> tuple[int, ...]:
        return tuple(range(self.num_ranks))

    @property
    def moved_bytes(self) -> int:
        return self._shared.moved_bytes

    def move(self, memory: mmap.mmap | None) -> None:
        self._shared.move(memory)
        self._arena = self._shared.arena

    def _confirm(self, sequence: int) -> bool:
        """A device that stops waiting says so before its rank comes here.

        So each rank looks beforehand and tells the others: afterwards a peer's device may be in its next step
        already, and have given that up.
        """
        mark = GIVEN_UP if self._stop_word().any() else CONFIRMING
        others = self._shared.meet(sequence, mark, sequence)
        for peer, peer_mark in others.items():
            if peer_mark not in (CONFIRMING, GIVEN_UP):
                raise self._marks_differ(sequence, mark, peer, peer_mark)
        return mark == CONFIRMING and not others

    def resume(self) -> None:
        self._stop_word()[:] = 0

    def _stop_word(self) -> NDArray[np.uint8]:
        words = self._shared.extra
        return np.zeros(4, np.uint8) if words is None else words[:4]

    def _exchange(self, sequence: int, parity: int, count: int, way: Way) -> None:
        self._meet(sequence, 2 * count)

    def _gather(self, sequence: int, count: int) -> None:
        self._meet(sequence, 2 * count + 1)

    def _meet(self, sequence: int, mark: int) -> None:
        """Passes the barrier; `mark` must be all ranks' mark for this exchange."""
        for peer, peer_mark in self._shared.meet(sequence, mark, sequence).items():
            raise self._marks_differ(sequence, mark, peer, peer_mark)

    def _marks_differ(self, sequence: int, mark: int, peer: int, peer_mark: int) -> CollectiveError:
        if max(mark, peer_mark) >= CONFIRMING:
            message = (
                f"ranks {self.name} and {peer} disagree on whether their devices exchange among themselves"
            )
            return CollectiveError(f"{message}, in exchange {sequence}", peer)
        if (mark ^ peer_mark) & 1:
            phases = ("the first phase of one", "the second phase")
            mine, others = phases[mark & 1], phases[peer_mark & 1]
            message = f"all-reduce {sequence} is {mine} on rank {self.name} but {others} on rank {peer}"
            return CollectiveError(message, peer)
        return counts_differ(sequence, self.name, mark >> 1, peer, peer_mark >> 1)

    def abort(self, reason: str) -> None:
        error = aborted(self.name, reason)
        self._fail(error)
        self._stop_word()[:] = 255
        self._shared.abort(error)

    def close(self) -> None:
        # The mapping goes with the last view of it: unmapping under a caller's view would be a crash.
        self._connected = False
        self._arena = None
        self._shared.close()
