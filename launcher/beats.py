"""Signs of life of a host's workers: each writes to a pipe of its own, from a thread that no device holds up.

A worker that computes for long goes on beating; one that was stopped, or whose process is stuck, does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tplaunch.running_clock import RunningClock

BEATS_PER_SILENCE = 4
MOST_SECONDS = 1.0  # what counts of the time between two looks: whoever looks rarely was busy itself


class Beats:
    """The pipes of workers, by the order in which they were made."""

    def __init__(self, silence_seconds: float) -> None:
        self._silence_seconds = silence_seconds
        self.beat_seconds = silence_seconds / BEATS_PER_SILENCE
        self._clock = RunningClock(most_seconds=MOST_SECONDS)
        self._pipes: list[int] = []
        self._made: list[float] = []  # when, each pipe
        self._heard: dict[int, float] = {}  # when, by pipe; a worker that has not begun yet is not in it

    @contextmanager
    def pipe(self) -> Iterator[tuple[int, ...]]:
        """Makes the next pipe; gives the end to pass to a worker, which is closed here behind the body."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self._pipes.append(read)
        self._made.append(self._clock())
        try:
            yield (write,)
        finally:
            os.close(write)

    def silent(self) -> Mapping[int, str]:
        """Returns what to say of each worker that beat once, and has been silent for too long since."""
        now, found = self._clock(), {}
        for index, pipe in enumerate(self._pipes):
            with suppress(BlockingIOError):
                if os.read(pipe, 1 << 16):
                    self._heard[index] = now
            silence = now - self._heard.get(index, now)
            if silence > self._silence_seconds:
                found[index] = f"gave no sign of life for {silence:.0f} s: it was stopped, or is stuck"
        return found

    def unbegun(self) -> Mapping[int, str]:
        """Returns what to say of each worker that has not beaten for too long since it was started.

        Python itself may take that long to start, where it has no core; who was stopped does not start.
        """
        now = self._clock()
        return {
            index: f"gave no sign of life for {now - made:.0f} s since it was started: it was stopped"
            for index, made in enumerate(self._made)
            if index not in self._heard and now - made > self._silence_seconds
        }

    def close(self) -> None:
        """Closes the pipes; afterwards nobody counts as silent."""
        while self._pipes:
            os.close(self._pipes.pop())
        self._made.clear()
        self._heard.clear()
