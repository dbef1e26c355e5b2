"""Where a rank's step goes: laps of its host and, where timestamps are asked for, of its device.

coordinator/ledger.py says what the kinds mean.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from coordinator.messages import Lap

Times = npt.NDArray[np.float64]
HOST_KINDS = ("host", "submit", "wait", "reduce")


class StepClock:
    """Adds up the host's laps, which follow each other without a gap."""

    def __init__(self) -> None:
        self._microseconds = dict.fromkeys(HOST_KINDS, 0.0)
        self._last = time.perf_counter()

    def lap(self, kind: str) -> None:
        """The time since the last lap was of this kind."""
        now = time.perf_counter()
        self._microseconds[kind] += (now - self._last) * 1e6
        self._last = now

    def ledger(self) -> dict[str, float]:
        """Microseconds by kind."""
        return self._microseconds


class RecordingClock(StepClock):
    """Also keeps the laps one by one, to hold them against the device's times."""

    def __init__(self) -> None:
        super().__init__()
        self.laps: list[Lap] = []

    def lap(self, kind: str) -> None:
        begin = self._last
        super().lap(kind)
        self.laps.append(Lap(kind, begin, self._last))

    def add_device(self, times: Times) -> None:
        """The last laps of a step: when each segment ran [segments, 2], in seconds of the device's clock.

        Takes what the device computed out of what the host did meanwhile.
        """
        waits = [lap.end for lap in self.laps if lap.kind == "wait"]
        spans = aligned(times, np.array(waits))
        host = np.array([(lap.begin, lap.end) for lap in self.laps])
        shared = overlaps(host, spans) * 1e6
        for lap, microseconds in zip(self.laps, shared.tolist(), strict=True):
            self._microseconds[lap.kind] -= microseconds
        self._microseconds["device"] = float(shared.sum())
        self.laps += [Lap("device", begin, end) for begin, end in spans.tolist()]


def aligned(times: Times, seen: Times) -> Times:
    """Device times on the host's clock: as late as can be, for no segment ended after its end was seen.

    So the quickest wake-up of the step counts as none at all.

    times: [segments, 2]; seen: when the host had waited for each [segments].
    """
    spans: Times = times + (seen - times[:, 1]).min()
    return spans


def overlaps(laps: Times, spans: Times) -> Times:
    """How much of each lap [laps, 2] the spans [spans, 2] cover; the spans don't overlap each other."""
    begin = np.maximum(laps[:, None, 0], spans[None, :, 0])
    end = np.minimum(laps[:, None, 1], spans[None, :, 1])
    covered: Times = np.maximum(end - begin, 0).sum(axis=1)
    return covered
