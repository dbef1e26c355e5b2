"""Time in which this process ran: what every deadline counts, so that a stopped job blames nobody.

Ctrl-Z, SIGSTOP or a paused container stop a process, not the clocks of the system. Imports nothing of
tplaunch: each of its packages may use this.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_SECONDS = 0.1  # how long a wait may be, at most, between two looks at the clock
MOST_SECONDS = 2 * LOOK_SECONDS  # what counts of the time between two looks; the rest the process was stopped


class RunningClock:
    """Seconds since it was made in which this process ran. For one thread.

    It can't know of a stop but by its length, so whoever waits looks at it every LOOK_SECONDS. Between waits
    nobody need look: a deadline is worked out anew for each.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, most_seconds: float = MOST_SECONDS
    ) -> None:
        """most_seconds: what counts of the time between two looks, for those who look less often."""
        self._monotonic, self._most_seconds = monotonic, most_seconds
        self._seen = monotonic()
        self._seconds = 0.0

    def __call__(self) -> float:
        now = self._monotonic()
        self._seconds += min(now - self._seen, self._most_seconds)
        self._seen = now
        return self._seconds
