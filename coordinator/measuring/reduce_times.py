"""Finds the time in which all-reduces held devices up, from the times of each rank's segments."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.messages import StepDone


@dataclass(frozen=True)
class ReduceTimes:
    """The times of some steps' all-reduces: the time in which no device computed for want of the others.

    The time begins when the last rank's device has ended its work before the all-reduce, and ends when the
    last one begins its work after it. In two phases that happens twice; work in between is not counted.

    Where devices exchange by themselves, an all-reduce is the dispatch that does so, and mostly adds up at
    once: on the rank where it took least, for the others waited for that one.
    """

    num_ranks: int
    count: int
    median_microseconds: float
    min_bytes: int
    max_bytes: int
    by_devices: bool = False


class _Found(NamedTuple):
    seconds: list[float]  # of each all-reduce
    sizes: list[int]  # bytes, of each step


class ReduceClock:
    """Collects what the answers of steps tell."""

    def __init__(self) -> None:
        self._found: dict[bool, _Found] = {}  # by whether devices exchanged by themselves
        self._num_ranks = 0

    def add(self, answers: Sequence[StepDone], num_all_reduces: int, num_bytes: int) -> None:
        """Nothing is taken from a step of which a device did not tell its times."""
        if not num_all_reduces:
            return
        spans, exchanges = ([_spans(answer, kind) for answer in answers] for kind in ("device", "exchange"))
        self._num_ranks = len(answers)
        if all(len(span) == num_all_reduces for span in exchanges):
            lengths = np.diff(np.array(exchanges), axis=2)[:, :, 0]
            self._take_in(True, lengths.min(axis=0).tolist(), num_bytes)
        elif all(len(span) > num_all_reduces for span in spans):
            seconds = reduce_seconds(np.array(spans)).reshape(num_all_reduces, -1).sum(axis=1)
            self._take_in(False, seconds.tolist(), num_bytes)

    def _take_in(self, by_devices: bool, seconds: list[float], num_bytes: int) -> None:
        found = self._found.setdefault(by_devices, _Found([], []))
        found.seconds.extend(seconds)
        found.sizes.append(num_bytes)

    def take(self) -> ReduceTimes | None:
        """All since this was called last, of the kind that there were most of; None without any."""
        if not self._found:
            return None
        by_devices, found = max(self._found.items(), key=lambda item: len(item[1].seconds))
        self._found = {}
        median = statistics.median(found.seconds) * 1e6
        sizes = found.sizes
        return ReduceTimes(self._num_ranks, len(found.seconds), median, min(sizes), max(sizes), by_devices)


def reduce_seconds(spans: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """spans: begin and end of each segment [ranks, segments, 2] -> seconds behind each but the last."""
    begins, ends = spans[:, :, 0].max(axis=0), spans[:, :, 1].max(axis=0)
    gaps: npt.NDArray[np.float64] = begins[1:] - ends[:-1]
    return gaps


def _spans(answer: StepDone, kind: str) -> list[tuple[float, float]]:
    return [(lap.begin, lap.end) for lap in answer.laps if lap.kind == kind]
