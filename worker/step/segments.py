"""Runs a program's segments one after another, with the all-reduces between them: all ranks in lock-step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tplaunch.collectives import Collective
from tplaunch.worker.device import Device
from tplaunch.worker.programs.program import Phase, Program


class SegmentRunner:
    """A rank's device and its place among the ranks."""

    def __init__(self, device: Device, collective: Collective) -> None:
        self.device, self.collective = device, collective
        self._num_exchanges = 0

    def run(self, program: Program, num_rows: int, row_length: int, lap: Callable[[str], None]) -> bool:
        """row_length: of the residual stream. `lap` is told what the time since its last call went to.

        False where devices that exchange among themselves have waited in vain, on all ranks alike: then
        nothing of it counts.
        """
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
        if not program.num_gathers:
            return True
        self._num_exchanges += 1
        has_succeeded = self.collective.confirm(self._num_exchanges)
        lap("reduce")
        return has_succeeded

    def _exchange(self, parity: int, phase: Phase, count: int, is_exact: bool) -> None:
        self._num_exchanges += 1
        if phase is Phase.SLICES:
            self.collective.all_gather(self._num_exchanges)
        else:
            summed = phase is Phase.HOSTS
            self.collective.all_reduce(self._num_exchanges, parity, count, summed=summed, exact=is_exact)

    def exchange(self, parity: int, count: int) -> None:
        """All-reduces so many numbers of one parity, exactly, outside of any program; parities take turns."""
        self._exchange(parity, Phase.ONE_SHOT, count, is_exact=True)

    def slowest(self, seconds: list[float]) -> list[float]:
        """The largest of all ranks' numbers, one by one: the same on every rank."""
        slowest: list[float] = self.told(seconds).max(axis=0).tolist()
        return slowest

    def told(self, numbers: list[float]) -> npt.NDArray[np.float32]:
        """All ranks' numbers [ranks, numbers], the same on every rank.

        Each rank adds its numbers to zeros of all others: so they come through, whoever adds up what.
        """
        collective = self.collective
        shape = (collective.num_ranks, len(numbers))
        for parity in (0, 1):  # both, as in a step
            count = shape[0] * shape[1]
            collective.own(parity)[:count] = 0
            collective.own(parity)[:count].reshape(shape)[collective.rank] = numbers
            self._exchange(parity, Phase.ONE_SHOT, count, is_exact=True)
            found: npt.NDArray[np.float32] = collective.partials(parity)[:, :count].sum(axis=0).reshape(shape)
        return found
