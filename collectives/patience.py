"""How long a rank waits for others, and when it tells them that it does."""

import math

_MAX_ANNOUNCE_SECONDS = 1.0  # after this a waiting rank tells the others that it is not the missing one


class Patience:
    """The deadlines of one all-reduce, or of connect() as sequence 0."""

    def __init__(self, sequence: int, timeout_seconds: float, now: float) -> None:
        self.sequence = sequence
        self._end = now + timeout_seconds
        self._announce = now + min(_MAX_ANNOUNCE_SECONDS, timeout_seconds / 2)

    def is_lost(self, now: float) -> bool:
        return now >= self._end

    def announces(self, now: float) -> bool:
        """Tells, once, that it is time to tell the others."""
        if now < self._announce:
            return False
        self._announce = math.inf
        return True
