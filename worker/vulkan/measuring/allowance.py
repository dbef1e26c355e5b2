"""Says how long measurements may go on: until a time, or for so many seconds of what is timed itself."""

from __future__ import annotations

import time
from typing import Protocol


class Allowance(Protocol):
    """Time to measure in."""

    def count(self, seconds: float) -> None:
        """Tells of a run that was timed."""

    @property
    def is_used_up(self) -> bool:
        """Tells if nothing more is to be begun."""


class Until:
    """An allowance that ends at a time of time.monotonic(), for whatever it was spent."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def count(self, seconds: float) -> None:
        """Changes nothing."""

    @property
    def is_used_up(self) -> bool:
        return time.monotonic() > self._deadline


class Runs:
    """An allowance of so many seconds of runs: what a driver compiles meanwhile does not count."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def count(self, seconds: float) -> None:
        self._left -= seconds

    @property
    def is_used_up(self) -> bool:
        return self._left <= 0
