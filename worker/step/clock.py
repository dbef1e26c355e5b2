"""Times a rank's step: laps of its host and, where timestamps are asked for, of its device.

coordinator/measuring/ledger.py says what the kinds mean.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.messages import HOST_KINDS, Lap

Times = npt.NDArray[np.float64]


class StepClock:
    """The host's laps, which follow each other without a gap.

    A lap is only noted when it ends, for that is between two segments; what it comes to is worked out later.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[str, float]] = []
        self._begin = time.perf_counter()

    def lap(self, kind: str) -> None:
        """The time since the last lap was of this kind."""
        self._ends.append((kind, time.perf_counter()))

    def run_was_vain(self) -> None:
        """The device's work so far counts for nothing: waiting for it was part of a failed all-reduce."""
        self._ends = [("reduce" if kind == "wait" else kind, end) for kind, end in self._ends]

    def ledger(self) -> dict[str, float]:
        """Microseconds by kind."""
        microseconds, last = dict.fromkeys(HOST_KINDS, 0.0), self._begin
        for kind, end in self._ends:
            microseconds[kind] = microseconds.get(kind, 0.0) + (end - last) * 1e6
            last = end
        return microseconds

    def laps(self) -> list[Lap]:
        """One by one, to hold them against the device's times."""
        begins = [self._begin, *(end for _, end in self._ends)]
        return [Lap(kind, begin, end) for begin, (kind, end) in zip(begins, self._ends, strict=False)]


def account_for_device(
    ledger: dict[str, float], laps: Sequence[Lap], times: Times, exchanges: Times | None = None
) -> list[Lap]:
    """The device's laps, from when each segment ran [segments, 2] in seconds of the device's clock, and each
    exchange with other devices in them [exchanges, 2].

    What the device computed is taken out of what the host did meanwhile: the ledger's kinds change.
    """
    waits = [lap.end for lap in laps if lap.kind == "wait"]
    spans = aligned(times, np.array(waits))
    host = np.array([(lap.begin, lap.end) for lap in laps])
    shared = overlaps(host, spans) * 1e6
    for lap, microseconds in zip(laps, shared.tolist(), strict=True):
        ledger[lap.kind] -= microseconds
    ledger["device"] = float(shared.sum())
    found = [Lap("device", begin, end) for begin, end in spans.tolist()]
    if exchanges is not None:
        within = exchanges + (spans[0, 0] - times[0, 0])
        found += [Lap("exchange", begin, end) for begin, end in within.tolist()]
    return found


def aligned(times: Times, seen: Times) -> Times:
    """Device times on the host's clock: as late as can be, for no segment ended after its end was seen.

    So the quickest wake-up of the step counts as none at all.

    times: [segments, 2]; seen: when the host had waited for each [segments].
    """
    spans: Times = times + (seen - times[:, 1]).min()
    return spans


def overlaps(laps: Times, spans: Times) -> Times:
    """Returns the time of each lap [laps, 2] that the spans [spans, 2] cover; spans don't overlap."""
    begin = np.maximum(laps[:, None, 0], spans[None, :, 0])
    end = np.minimum(laps[:, None, 1], spans[None, :, 1])
    covered: Times = np.maximum(end - begin, 0).sum(axis=1)
    return covered
