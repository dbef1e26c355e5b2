"""Hands over what a stage of the model leaves to the ranks of the next one: float32 numbers, the same to all.

The first rank of a stage sends, to each rank of the next stage on its own host and once to each other host,
where the first of these ranks passes it on. Sending waits for nobody. Nothing here knows of layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tplaunch.collectives.failures import CollectiveError, CollectiveTimeout, aborted, named
from tplaunch.collectives.links import Exchange, Links
from tplaunch.collectives.wire_types import EXACT
from tplaunch.collectives.zmq_doors import LOOPBACK, Door, FolderDoor, TcpDoor
from tplaunch.collectives.zmq_wire import PIECE_ELEMENTS
from tplaunch.running_clock import RunningClock

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Way:
    """Ranks of which the first sends what a stage leaves to all others, on its own host or on other ones."""

    stage: int
    ranks: tuple[int, ...]
    between_hosts: bool


def ways(hosts: Sequence[int], stages: Sequence[int]) -> list[Way]:
    """Lists the ways of a run, stage by stage. hosts, stages: of each rank."""
    found = [way for stage in range(max(stages)) for way in _ways_behind(stage, hosts, stages)]
    return [way for way in found if len(way.ranks) > 1]


def _ways_behind(stage: int, hosts: Sequence[int], stages: Sequence[int]) -> Iterator[Way]:
    sender = list(stages).index(stage)
    by_host: dict[int, list[int]] = {hosts[sender]: []}
    for rank, found in enumerate(stages):
        if found == stage + 1:
            by_host.setdefault(hosts[rank], []).append(rank)
    own, *others = by_host.values()
    yield Way(stage, (sender, *own), False)
    yield Way(stage, (sender, *(ranks[0] for ranks in others)), True)
    for ranks in others:
        yield Way(stage, tuple(ranks), False)


class Handover:
    """One rank's end of the ways that it is on. A rank of the only stage has none, and nothing to do.

    connect(), send(), receive() and close() belong to one thread; abort() may come from any other.
    """

    def __init__(
        self,
        *,
        rank: int,
        hosts: Sequence[int],
        stages: Sequence[int],
        token: bytes,
        timeout_seconds: float,
        folder: Path,
        address: str | None = None,
    ) -> None:
        """hosts, stages: of each rank. folder: the run's private one. address: where other hosts reach it.

        timeout_seconds: for what one stage computes. Raises CollectiveError where it can't listen.
        """
        self._rank, self._stage, self._ways = rank, stages[rank], ways(hosts, stages)
        self._seconds = timeout_seconds * max(1, self._stage)  # in which all stages before it compute
        self._step = 0
        clock = RunningClock()
        self._links: dict[int, Links] = {}  # by the number of the way
        try:
            for number, way in enumerate(self._ways):
                if rank in way.ranks:
                    door: Door = FolderDoor(folder, rank, f"stage-{number}")
                    if way.between_hosts:
                        door = TcpDoor(address or LOOPBACK, rank, token)
                    member = way.ranks.index(rank)
                    self._links[number] = Links(member, way.ranks, door, token, EXACT, self._seconds, clock)
        except BaseException:
            self.close()
            raise
        self._to_next = self._sending(self._stage)
        self._to_neighbours = self._sending(self._stage - 1)
        incoming = [number for number, links in self._links.items() if links.member > 0]
        self._incoming = self._links[incoming[0]] if incoming else None

    def _sending(self, stage: int) -> list[Links]:
        """The ways by which this rank sends what a stage has computed."""
        return [
            links
            for number, links in self._links.items()
            if links.member == 0 and self._ways[number].stage == stage
        ]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The places where the others of each of its ways find this rank."""
        return tuple(links.endpoint for links in self._links.values())

    @property
    def sends(self) -> bool:
        """Tells whether this rank sends what its stage computes."""
        return bool(self._to_next)

    @property
    def receives(self) -> bool:
        """Tells whether this rank goes on with what a stage before it has computed."""
        return self._incoming is not None

    @property
    def sent_bytes(self) -> int:
        """Bytes to other ranks so far, with headers and what the encryption adds."""
        return sum(links.sent_bytes for links in self._links.values())

    def connect(self, endpoints: Sequence[Sequence[str]]) -> None:
        """endpoints: of all ranks, each those of its ways. Raises CollectiveTimeout naming those missing."""
        for number, links in self._links.items():
            links.connect([self._endpoint(number, peer, endpoints[peer]) for peer in links.ranks])

    def _endpoint(self, number: int, peer: int, told: Sequence[str]) -> str:
        """A peer's endpoint on a way, among those of all its ways."""
        numbers = [number for number, way in enumerate(self._ways) if peer in way.ranks]
        if len(told) != len(numbers):
            message = f"rank {peer} told {len(told)} endpoints for its {len(numbers)} ways between stages"
            raise CollectiveError(message, peer)
        return told[numbers.index(number)]

    @property
    def tells_steps(self) -> bool:
        """Tells whether anything is handed over, by messages that say what step they belong to."""
        return bool(self._links)

    def begin_step(self, number: int, digest: bytes) -> None:
        """The next values to be sent and received belong to this step of the model; each comes once.

        digest: 8 bytes of what the step is to compute.
        """
        self._step = number
        for links in self._links.values():
            links.begin_step(number, digest)

    def send(self, values: Floats) -> None:
        """Sends a copy of what this rank's stage has computed, unless another rank does."""
        for links in self._to_next:
            exchange = self._exchange(links, values)
            with links:
                for piece, part in enumerate(_pieces(values)):
                    links.send(links.peers, exchange, 0, piece, EXACT.encode(part))

    def receive(self, values: Floats) -> None:
        """Fills values with what the stage before this one has computed, and passes it on.

        Raises CollectiveTimeout where it does not come, and CollectiveError for what is of another step.
        """
        assert self._incoming is not None, "a rank of the first stage receives nothing"
        incoming = self._incoming
        exchange = self._exchange(incoming, values)
        onward = [(links, self._exchange(links, values)) for links in self._to_neighbours]
        try:
            for piece, part in enumerate(_pieces(values)):
                with incoming:
                    EXACT.decode(incoming.take(0, exchange, 0, piece, part.nbytes), part)
                for links, passed_on in onward:
                    with links:
                        links.send(links.peers, passed_on, 0, piece, EXACT.encode(part))
        except CollectiveTimeout as error:
            raise self._late(incoming.ranks[0]) from error

    def _exchange(self, links: Links, values: Floats) -> Exchange:
        """Returns the parts that all messages of the step on one way have in common."""
        return Exchange(self._step, values.size, EXACT, links.patience(self._step))

    def _late(self, sender: int) -> CollectiveTimeout:
        message = (
            f"rank {self._rank} of stage {self._stage} waited {self._seconds:g} s in step {self._step} for"
            f" {named([sender])}, which sends what stage {self._stage - 1} computes"
        )
        return CollectiveTimeout(message, sender)

    def abort(self, reason: str) -> None:
        """Has those who wait for this rank raise CollectiveAborted naming it."""
        for links in self._links.values():
            links.abort(aborted(self._rank, reason))

    def close(self) -> None:
        """Lets go of everything. Idempotent."""
        for links in self._links.values():
            links.close()
        self._links.clear()
        self._to_next, self._to_neighbours, self._incoming = [], [], None


def _pieces(values: Floats) -> Iterator[Floats]:
    for start in range(0, values.size, PIECE_ELEMENTS):
        yield values[start : start + PIECE_ELEMENTS]
