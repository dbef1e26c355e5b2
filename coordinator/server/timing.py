"""The times of one answer, as its reader sees them."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Takes the times of answers."""

    def first(self, seconds: float) -> None:
        """Takes the time from a request's arrival to its first token."""

    def between(self, seconds: float, count: int) -> None:
        """Takes the mean time that each of so many further tokens of one text took."""

    def ended(self, seconds: float, reasons: list[str]) -> None:
        """Takes the time of a whole request, and how each of its texts ended."""


class NoClock:
    """Takes no times."""

    def first(self, seconds: float) -> None:
        pass

    def between(self, seconds: float, count: int) -> None:
        pass

    def ended(self, seconds: float, reasons: list[str]) -> None:
        pass


class Timing:
    """Counts the time of one answer, from when it is made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = time.perf_counter()
        self._last: dict[int, float] = {}  # by text, when its last token came
        self._reasons: dict[int, str] = {}  # by text

    def take(self, index: int, count: int, finish_reason: str | None) -> None:
        """Hears that so many tokens of a text have come."""
        if finish_reason is not None:
            self._reasons[index] = finish_reason
        if not count:
            return
        now, last = time.perf_counter(), self._last.get(index)
        if not self._last:
            self._clock.first(now - self._began)
        elif last is not None:
            self._clock.between((now - last) / count, count)
        self._last[index] = now

    def end(self, num_texts: int) -> None:
        """Hears that the answer is over: texts that have not ended were given up."""
        reasons = [self._reasons.get(index, "abort") for index in range(num_texts)]
        self._clock.ended(time.perf_counter() - self._began, reasons)
