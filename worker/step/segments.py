"""Runs a program's segments one after another, with the all-reduces between them: all ranks in lock-step."""

from __future__ import annotations

from collections.abc import Callable

from tplaunch.collectives import Collective
from tplaunch.worker.device import Device
from tplaunch.worker.programs.program import Phase, Program


class SegmentRunner:
    """A rank's device and its place among the ranks."""

    def __init__(self, device: Device, collective: Collective) -> None:
        self.device, self.collective = device, collective
        self._num_exchanges = 0

    def run(self, program: Program, num_rows: int, row_length: int, lap: Callable[[str], None]) -> None:
        """row_length: of the residual stream. `lap` is told what the time since its last call went to."""
        device, self.collective.lap = self.device, lap
        device.submit(program, num_rows)
        lap("submit")
        for index, segment in enumerate(program.segments):
            device.finish(index)
            lap("wait")
            if segment.parity is not None:
                count = segment.num_elements(num_rows, row_length)
                self._exchange(segment.parity, segment.phase, count, segment.is_exact)
                lap("reduce")
                device.release(index + 1)
                lap("submit")

    def _exchange(self, parity: int, phase: Phase, count: int, is_exact: bool) -> None:
        self._num_exchanges += 1
        if phase is Phase.SLICES:
            self.collective.all_gather(self._num_exchanges)
        else:
            summed = phase is Phase.HOSTS
            self.collective.all_reduce(self._num_exchanges, parity, count, summed=summed, exact=is_exact)

    def slowest(self, seconds: list[float]) -> list[float]:
        """The largest of all ranks' numbers, one by one: the same on every rank.

        Each rank adds its numbers to zeros of all others: so they come through, whoever adds up what.
        """
        collective = self.collective
        shape = (collective.num_ranks, len(seconds))
        for parity in (0, 1):  # both, as in a step
            count = shape[0] * shape[1]
            collective.own(parity)[:count] = 0
            collective.own(parity)[:count].reshape(shape)[collective.rank] = seconds
            self._exchange(parity, Phase.ONE_SHOT, count, is_exact=True)
            numbers = collective.partials(parity)[:, :count].sum(axis=0).reshape(shape)
        slowest: list[float] = numbers.max(axis=0).tolist()
        return slowest
