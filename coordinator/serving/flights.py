"""The steps that the ranks compute: with several stages the next ones are sent while one is waited for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from tplaunch.coordinator.serving.counts import Counts
from tplaunch.coordinator.serving.request import Request
from tplaunch.coordinator.serving.sequence import ScheduledRows
from tplaunch.coordinator.serving.stream import Stream


@dataclass(frozen=True)
class Flight:
    """A step that was sent to the ranks."""

    number: int
    runs: SequenceOf[ScheduledRows]
    streams: SequenceOf[Stream]  # of each run
    is_decoding: dict[Request, bool]  # whether its first text had begun
    began: float  # as time.perf_counter has it


class Flights:
    """All steps that run, or have failed, in the order in which they were sent."""

    def __init__(self) -> None:
        self._flights: deque[Flight] = deque()
        self._counted_until = 0.0  # when the last one ended: steps overlap, and their time counts once

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def first(self) -> Flight:
        return self._flights[0]

    def add(self, flight: Flight) -> None:
        self._flights.append(flight)

    def finish_first(self, counts: Counts) -> None:
        """Takes note that the first one has ended."""
        flight, end = self._flights.popleft(), time.perf_counter()
        counts.num_steps += 1
        counts.step_seconds += end - max(flight.began, self._counted_until)
        self._counted_until = end
        for request, decodes in flight.is_decoding.items():
            request.times.add(flight.began, end, is_decoding=decodes)

    def take_failed(self) -> Collection[Request]:
        """Returns the requests whose steps have failed, once."""
        taken = dict.fromkeys(request for flight in self._flights for request in flight.is_decoding)
        self._flights.clear()
        return taken
