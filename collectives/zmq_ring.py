"""All-reduce by messages alone, around a ring: for ranks of one host that can't share memory."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tplaunch.collectives.arena import private_arena
from tplaunch.collectives.base import DEFAULT_TIMEOUT_SECONDS, Collective, Way, check_token
from tplaunch.collectives.failures import aborted
from tplaunch.collectives.links import Exchange, Links
from tplaunch.collectives.ring import ring
from tplaunch.collectives.wire_types import EXACT, WIRE_TYPES
from tplaunch.collectives.zmq_doors import open_door


class ZmqRing(Collective):
    """num_partials = 1: the sum itself is left in the arena, the same bits on every rank."""

    num_partials = 1
    write_slot = 0
    touches_sums = True
    tells_steps = True

    def __init__(
        self,
        *,
        rank: int,
        num_ranks: int,
        slot_bytes: int,
        token: bytes,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        names: Sequence[int] | None = None,
        wire: str = EXACT.name,
        folder: Path | None = None,
        address: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """See Hierarchical."""
        super().__init__(
            rank=rank,
            num_ranks=num_ranks,
            slot_bytes=slot_bytes,
            timeout_seconds=timeout_seconds,
            names=names,
        )
        check_token(token)
        self._clock = self._clock if clock is None else clock
        self._wire = WIRE_TYPES[wire]
        self._links = Links(
            rank,
            self.names,
            open_door(self.name, token, folder, address),
            token,
            self._wire,
            timeout_seconds,
            self._clock,
            self._interrupt,
        )
        self.endpoint = self._links.endpoint
        self._arena = private_arena(self.num_partials, self.slot_bytes)

    def _interrupt(self) -> None:
        if self._failure is not None:  # abort() by another thread
            self._refuse()

    @property
    def sent_bytes(self) -> int:
        return self._links.sent_bytes

    def begin_step(self, number: int, digest: bytes) -> None:
        self._links.begin_step(number, digest)

    def connect(self, endpoints: Sequence[str]) -> None:
        self._check_endpoints(endpoints)
        self._links.connect(endpoints)
        self._connected = True

    def _exchange(self, sequence: int, parity: int, count: int, way: Way) -> None:
        values = self.partials(parity)[0, :count]
        wire = EXACT if way.exact else self._wire
        with self._links as links:
            ring(links, Exchange(sequence, count, wire, links.patience(sequence)), values.__getitem__, values)

    def abort(self, reason: str) -> None:
        error = aborted(self.name, reason)
        self._fail(error)  # first: it makes a waiting thread let go of the sockets
        self._links.abort(error)

    def close(self) -> None:
        self._connected = False
        self._links.close()
        self._arena = None
