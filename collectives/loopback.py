"""The collective of a single rank: its partial sum is already the sum. Keeps the checks of the others."""

from collections.abc import Sequence

from tplaunch.collectives.arena import private_arena
from tplaunch.collectives.base import DEFAULT_TIMEOUT_SECONDS, Collective, Way
from tplaunch.collectives.failures import aborted


class Loopback(Collective):
    num_partials = 1
    write_slot = 0
    endpoint = ""

    def __init__(
        self,
        *,
        slot_bytes: int,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        names: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            rank=0, num_ranks=1, slot_bytes=slot_bytes, timeout_seconds=timeout_seconds, names=names
        )
        self._arena = private_arena(self.num_partials, self.slot_bytes)

    def connect(self, endpoints: Sequence[str]) -> None:
        self._check_endpoints(endpoints)
        self._connected = True

    def _exchange(self, sequence: int, parity: int, count: int, way: Way) -> None:
        """Nothing to add."""

    def abort(self, reason: str) -> None:
        self._fail(aborted(self.name, reason))

    def close(self) -> None:
        self._connected = False
        self._arena = None
