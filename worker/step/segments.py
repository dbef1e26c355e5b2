"""Runs a program's segments one after another, with the all-reduces between them: all ranks in lock-step."""

from __future__ import annotations

from collections.abc import Callable

from tplaunch.collectives import Collective
from tplaunch.worker.device import Device
from tplaunch.worker.programs.program import Phase, Program


class SegmentRunner:
    """A rank's device and its place among the ranks."""

    def __init__(self, device: Device, collective: Collective) -> None:
        self._device, self._collective = device, collective
        self._num_exchanges = 0

    def run(self, program: Program, num_rows: int, row_length: int, lap: Callable[[str], None]) -> None:
        """row_length: of the residual stream. `lap` is told what the time since its last call went to."""
        device = self._device
        device.submit(program, num_rows)
        lap("submit")
        for index, segment in enumerate(program.segments):
            device.finish(index)
            lap("wait")
            if segment.parity is not None:
                count = segment.num_elements(num_rows, row_length)
                self._exchange(segment.parity, segment.phase, count)
                lap("reduce")
                device.release(index + 1)
                lap("submit")

    def _exchange(self, parity: int, phase: Phase, count: int) -> None:
        self._num_exchanges += 1
        if phase is Phase.SLICES:
            self._collective.all_gather(self._num_exchanges)
        else:
            self._collective.all_reduce(self._num_exchanges, parity, count)

    def slowest(self, seconds: list[float]) -> list[float]:
        """The largest of all ranks' numbers, one by one: the same on every rank."""
        count, collective = len(seconds), self._collective
        for parity in (0, 1):  # both, as in a step
            partials = collective.partials(parity)[:, :count]
            partials[collective.write_slot] = seconds
            self._exchange(parity, Phase.ONE_SHOT, count)
        slowest: list[float] = partials.max(axis=0).tolist()
        return slowest
