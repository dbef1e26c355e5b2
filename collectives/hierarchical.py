"""All-reduce among the ranks of several hosts: shared memory inside a host, messages among their leaders.

A host's leader is its first rank. Every other rank of it only ever meets the ranks of its own host.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tplaunch.collectives.arena import Backing, private_arena
from tplaunch.collectives.base import DEFAULT_TIMEOUT_SECONDS, Collective, Way, check_token
from tplaunch.collectives.failures import CollectiveError, aborted, counts_differ
from tplaunch.collectives.flags import flags_for_this_machine
from tplaunch.collectives.links import Exchange, Links
from tplaunch.collectives.one_shot import one_shot
from tplaunch.collectives.patience import Patience
from tplaunch.collectives.ring import ring
from tplaunch.collectives.shared_ranks import SharedRanks
from tplaunch.collectives.wire_types import EXACT, WIRE_TYPES, Floats
from tplaunch.collectives.zmq_doors import open_door

_GRACE_SECONDS = 1.0  # for a leader to say what it waited for in vain
_SEPARATOR = " "  # between the two parts of an endpoint, neither of which holds any
_STEP_SHIFT = 40  # of a barrier's mark: below is the count with two flags
_MAX_MARK = (1 << 64) - 1


class _Own:
    """A host's numbers: those that its only rank wrote, or the sum of those that its ranks did."""

    def __init__(self, mine: Floats, summands: Floats) -> None:
        """mine: the host's slot; summands [local ranks, elements], or none."""
        self._mine, self._summands = mine, summands

    def __call__(self, span: slice) -> Floats:
        values, summands = self._mine[span], self._summands[:, span]
        if len(summands):
            np.add(summands[0], summands[1], out=values)
        for summand in summands[2:]:
            np.add(values, summand, out=values)
        return values


class Hierarchical(Collective):
    """num_partials = the number of hosts H: a slot for each host's sum, in the order of the hosts.

    So every device adds the same numbers in the same order. The only rank of a host writes its host's slot.
    Several write slots of their own, behind the hosts', which the leader adds up into the host's. Summed, the
    leaders add up all hosts' around a ring, into slot 0 on every host.

    One all-reduce is two barriers on a host with the exchange of its leader in between. Two parities are
    enough, as in shared_memory.py: what a peer sends early is kept aside until it is due.
    """

    touches_sums = True
    tells_steps = True

    def __init__(
        self,
        *,
        rank: int,
        hosts: Sequence[int],
        slot_bytes: int,
        token: bytes,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        names: Sequence[int] | None = None,
        wire: str = EXACT.name,
        folder: Path | None = None,
        address: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """hosts: of each rank; those of one host are neighbours.

        folder: the run's private one (mode 0700), for leaders that are all on one machine; address: to
        listen on over TCP, one that the peers can reach. One of both is needed; the address goes first.
        clock: seconds, by which a rank loses its patience; by default those in which its process runs.
        """
        super().__init__(
            rank=rank,
            num_ranks=len(hosts),
            slot_bytes=slot_bytes,
            timeout_seconds=timeout_seconds,
            names=names,
        )
        check_token(token)
        self._clock = self._clock if clock is None else clock
        groups = [
            tuple(member for member, _ in group)
            for _, group in itertools.groupby(enumerate(hosts), key=lambda pair: pair[1])
        ]
        if len({hosts[group[0]] for group in groups}) != len(groups):
            raise ValueError(f"the ranks' hosts are {tuple(hosts)}, where those of one are neighbours")
        self._host = next(index for index, group in enumerate(groups) if rank in group)
        self._leaders = tuple(group[0] for group in groups)
        self._members = groups[self._host]
        self._wire = WIRE_TYPES[wire]
        self._step = 0
        self.num_partials = len(groups)
        self.can_sum = len(groups) > 1
        alone = len(self._members) == 1
        self.write_slot = self._host if alone else self.num_partials + rank - self._members[0]
        self._shared: SharedRanks | None = None
        self._links: Links | None = None
        if alone:
            self._arena = private_arena(self.num_partials, self.slot_bytes)
        else:
            self._shared = self._share(token)
            self._arena = self._shared.arena
        if rank == self._members[0]:
            self._links = self._link(token, folder, address)
        parts = (self._shared.endpoint if self._shared else "", self._links.endpoint if self._links else "")
        self.endpoint = _SEPARATOR.join(parts)

    def _share(self, token: bytes) -> SharedRanks:
        return SharedRanks(
            member=self._members.index(self.rank),
            ranks=[self.names[member] for member in self._members],
            num_slots=self.num_partials + len(self._members),
            slot_bytes=self.slot_bytes,
            token=token,
            timeout_seconds=self.timeout_seconds,
            clock=self._clock,
            make_flags=flags_for_this_machine,
        )

    def _link(self, token: bytes, folder: Path | None, address: str | None) -> Links:
        ranks = [self.names[leader] for leader in self._leaders]
        try:
            return Links(
                self._host,
                ranks,
                open_door(self.name, token, folder, address),
                token,
                self._wire,
                self.timeout_seconds,
                self._clock,
                self._interrupt,
            )
        except CollectiveError:
            self.close()
            raise

    def _interrupt(self) -> None:
        """Called while the leader waits for other hosts."""
        if self._failure is not None:  # abort() by another thread
            self._refuse()
        if self._shared is not None:
            self._shared.check_aborted()

    @property
    def backing(self) -> Backing | None:
        return self._shared.backing if self._shared else None

    @property
    def neighbours(self) -> tuple[int, ...]:
        return self._members

    @property
    def moved_bytes(self) -> int:
        assert self._shared is not None, "the only rank of a host shares no memory"
        return self._shared.moved_bytes

    def move(self, memory: mmap.mmap | None) -> None:
        assert self._shared is not None, "the only rank of a host shares no memory"
        self._shared.move(memory)
        self._arena = self._shared.arena

    @property
    def sent_bytes(self) -> int:
        return self._links.sent_bytes if self._links else 0

    def begin_step(self, number: int, digest: bytes) -> None:
        self._step = int.from_bytes(digest, "little") ^ number
        if self._links is not None:
            self._links.begin_step(number, digest)

    def connect(self, endpoints: Sequence[str]) -> None:
        self._check_endpoints(endpoints)
        parts = [endpoint.partition(_SEPARATOR)[::2] for endpoint in endpoints]
        shared, links = self._shared, self._links
        try:
            if shared is not None:
                shared.connect(parts[self._members[0]][0])
                self._arena = shared.arena
            if links is not None:
                links.connect([parts[leader][1] for leader in self._leaders])
            if shared is not None:
                shared.meet(1, 0, 0, self.timeout_seconds + _GRACE_SECONDS)
        except CollectiveError as error:
            if shared is not None and links is not None:
                shared.abort(error)
            raise
        self._connected = True

    def _exchange(self, sequence: int, parity: int, count: int, way: Way) -> None:
        links, shared = self._links, self._shared
        if shared is not None:
            self._meet_before(shared, sequence, count, way)
        if self.lap is not None:
            self.lap("reduce")
        if links is not None:
            self._exchange_with_hosts(links, sequence, parity, count, way)
        if shared is not None:
            shared.meet(2 * sequence + 1, 0, sequence, self.timeout_seconds + _GRACE_SECONDS)
        if self.lap is not None:
            self.lap("wire")

    def _meet_before(self, shared: SharedRanks, sequence: int, count: int, way: Way) -> None:
        """Waits for the ranks of this host. The leader tells other hosts that it does, and of errors."""
        mark = (count << 2 | way.summed << 1 | way.exact) ^ (self._step << _STEP_SHIFT) & _MAX_MARK
        patience = Patience(sequence, self.timeout_seconds, self._clock())

        def waiting(missing: Sequence[int]) -> None:
            if self._links is not None and patience.announces(self._clock()):
                self._links.announce(sequence, missing)

        try:
            for peer, found in shared.meet(2 * sequence, mark, sequence, waiting=waiting).items():
                raise self._marks_differ(sequence, mark, peer, found)
        except CollectiveError as error:
            if self._links is not None:
                self._links.abort(error)
            raise

    def _marks_differ(self, sequence: int, mark: int, peer: int, found: int) -> CollectiveError:
        if (mark ^ found) >> _STEP_SHIFT:
            message = f"rank {peer} and rank {self.name} were given different steps before all-reduce"
            return CollectiveError(f"{message} {sequence}", peer)
        own_count, peer_count = ((each & (1 << _STEP_SHIFT) - 1) >> 2 for each in (mark, found))
        return counts_differ(sequence, self.name, own_count, peer, peer_count)

    def _exchange_with_hosts(self, links: Links, sequence: int, parity: int, count: int, way: Way) -> None:
        """The leader's part. It tells its host of errors."""
        slots = self.arena[parity].view(np.float32)[:, :count]
        own = _Own(slots[self._host], slots[self.num_partials :])
        wire = EXACT if way.exact else self._wire
        try:
            with links:
                exchange = Exchange(sequence, count, wire, links.patience(sequence))
                if way.summed:
                    ring(links, exchange, own, slots[0])
                else:
                    one_shot(links, exchange, own, slots)
        except CollectiveError as error:
            if self._shared is not None:
                self._shared.abort(error)
            raise

    def abort(self, reason: str) -> None:
        error = aborted(self.name, reason)
        self._fail(error)  # first: it makes a waiting thread let go of the sockets
        if self._shared is not None:
            self._shared.abort(error)
        if self._links is not None:
            self._links.abort(error)

    def close(self) -> None:
        self._connected = False
        self._arena = None
        if self._links is not None:
            self._links.close()
        if self._shared is not None:
            self._shared.close()
