"""Collects the laps of steps, and tells them in the Trace Event Format that Perfetto and Chrome open.

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tplaunch.coordinator.messages import Lap, Step, StepDone

OF_DEVICE = ("device", "exchange")  # kinds of laps; exchanges are parts of the others
COORDINATOR = 0  # its track; rank r has 2 r + 1 for its host and 2 r + 2 for its device


class Trace:
    """Every step of one run."""

    def __init__(self) -> None:
        self._laps: list[tuple[int, int, Lap]] = []  # track, step, lap
        self.num_ranks = 0

    def add(self, step: Step, begin: float, end: float, answers: Sequence[StepDone]) -> None:
        """begin, end: when the coordinator sent the step, and when it had all answers."""
        self.num_ranks = max(self.num_ranks, len(answers))
        rows = f"{step.token_ids.size} row" + "s" * (step.token_ids.size > 1)
        self._laps.append((COORDINATOR, step.number, Lap(f"step of {rows}", begin, end)))
        for rank, answer in enumerate(answers):
            for lap in answer.laps:
                self._laps.append((2 * rank + 1 + (lap.kind in OF_DEVICE), step.number, lap))

    def events(self, process: int, name: str) -> Iterator[dict[str, Any]]:
        """Yields Perfetto's events of one process with tracks for each rank. Times are microseconds."""
        yield _metadata("process_name", process, COORDINATOR, name)
        yield _metadata("thread_name", process, COORDINATOR, "coordinator")
        for rank in range(self.num_ranks):
            yield _metadata("thread_name", process, 2 * rank + 1, f"rank {rank}")
            yield _metadata("thread_name", process, 2 * rank + 2, f"rank {rank}, device")
        for track, number, lap in self._laps:
            yield {
                "name": lap.kind,
                "cat": "step",
                "ph": "X",
                "pid": process,
                "tid": track,
                "ts": lap.begin * 1e6,
                "dur": (lap.end - lap.begin) * 1e6,
                "args": {"step": number},
            }


def _metadata(kind: str, process: int, track: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": track, "args": {"name": name}}
