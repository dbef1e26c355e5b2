"""Finds the time in which all-reduces held devices up, from the times of each rank's segments."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.messages import StepDone


@dataclass(frozen=True)
class ReduceTimes:
    """The times of some steps' all-reduces: the time in which no device computed for want of the others.

    The time begins when the last rank's device has ended its work before the all-reduce, and ends when the
    last one begins its work after it. In two phases that happens twice; work in between is not counted.
    """

    num_ranks: int
    count: int
    median_microseconds: float
    min_bytes: int
    max_bytes: int


class ReduceClock:
    """Collects what the answers of steps tell."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._bytes: list[int] = []
        self._num_ranks = 0

    def add(self, answers: Sequence[StepDone], num_all_reduces: int, num_bytes: int) -> None:
        """Nothing is taken from a step of which a device did not tell its times."""
        spans = [_device_spans(answer) for answer in answers]
        if num_all_reduces and all(len(span) > num_all_reduces for span in spans):
            self._seconds += reduce_seconds(np.array(spans)).reshape(num_all_reduces, -1).sum(axis=1).tolist()
            self._bytes.append(num_bytes)
            self._num_ranks = len(answers)

    def take(self) -> ReduceTimes | None:
        """All since this was called last; None without any."""
        seconds, sizes = self._seconds, self._bytes
        self._seconds, self._bytes = [], []
        if not seconds:
            return None
        median = statistics.median(seconds) * 1e6
        return ReduceTimes(self._num_ranks, len(seconds), median, min(sizes), max(sizes))


def reduce_seconds(spans: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """spans: begin and end of each segment [ranks, segments, 2] -> seconds behind each but the last."""
    begins, ends = spans[:, :, 0].max(axis=0), spans[:, :, 1].max(axis=0)
    gaps: npt.NDArray[np.float64] = begins[1:] - ends[:-1]
    return gaps


def _device_spans(answer: StepDone) -> list[tuple[float, float]]:
    return [(lap.begin, lap.end) for lap in answer.laps if lap.kind == "device"]
