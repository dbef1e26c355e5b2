"""Decides how ranks find out that their devices' parts of an all-reduce are done: all of them try, and agree.

Each way is tried on the very devices, by nothing but all-reduces. The last way, in which devices exchange
among themselves, is one that Vulkan does not promise to work: so it is tried at each start, by numbers that
are known, and never where ranks share cores or a card, on which one would wait for another that can't run
meanwhile.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.worker.device import DeviceError, WaitingDevice
from tplaunch.worker.measuring.measurements import Measurements, Numbers, lowest
from tplaunch.worker.ops.exchange import Gather
from tplaunch.worker.programs.device_exchange import can_exchange, with_exchanges
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.step.segments import SegmentRunner

HOST_WAYS = ("block", "poll", "word")
DEVICE = "device"
WAYS = (*HOST_WAYS, DEVICE)  # in the order of preference where two are about as fast
NUM_RUNS, NUM_TRIES, NUM_ATTEMPTS = 12, 4, 3
NUM_CARD_NUMBERS = 4  # of 16 bits
NAME = "waiting in an all-reduce of {} bytes"

log = logging.getLogger("worker")


@dataclass(frozen=True)
class Waiting:
    """The way of a run's hosts, and whether devices need them at all where a program allows that."""

    host_way: str = "block"
    by_device: bool = False


class Chooser:
    """Chooses for one rank, together with all others, before the first step.

    build: makes a program of nothing but all-reduces of one row. step_header: of the step buffer.
    """

    def __init__(
        self,
        runner: SegmentRunner,
        build: Callable[[], Program],
        row_length: int,
        step_header: npt.NDArray[np.uint32],
        kept: Measurements | None,
    ) -> None:
        self._runner, self._build, self._row_length = runner, build, row_length
        self._header, self._kept = step_header, kept

    def choose(self, wanted: str, obstacle: str, on_cpu: bool) -> Waiting:
        """wanted: one of coordinator.options.WAITINGS. obstacle: why devices can't exchange in this run, ""
        where they may.

        on_cpu: whether this rank's device computes on the cores that its process may use. Raises DeviceError
        where devices are to exchange among themselves, and can't.
        """
        device, runner = self._runner.device, self._runner
        can_wait = isinstance(device, WaitingDevice)
        if max(runner.slowest([float(not can_wait)])):
            return Waiting()  # NumPy among them: nothing to choose
        assert isinstance(device, WaitingDevice)
        fault = "" if wanted in HOST_WAYS else self.fault(device, obstacle, on_cpu)
        if wanted == DEVICE and fault:
            raise DeviceError(f"--waiting device: {fault}; leave it out, or use --waiting word")
        if wanted != "auto":
            way = Waiting("block" if wanted == DEVICE else wanted, wanted == DEVICE)
        else:
            if fault:
                log.info("devices do not exchange among themselves: %s", fault)
            way = self._measured(device, HOST_WAYS if fault else WAYS)
        device.wait_by(way.host_way)
        log.info(
            "hosts wait by %s%s", way.host_way, ", devices exchange by themselves" if way.by_device else ""
        )
        return way

    def fault(self, device: WaitingDevice, obstacle: str, on_cpu: bool) -> str:
        """Says why devices can't exchange among themselves, the same on all ranks; "" where they can."""
        runner = self._runner
        words = runner.collective.words
        if words is None or runner.collective.num_ranks < 2:
            return "there is no memory that all ranks' devices could see"
        if obstacle:
            return obstacle
        if shares_cores(runner.told(list(map(float, cores(on_cpu))))):
            return "ranks share cores"
        if shares_cards(runner.told(card_numbers(device.card))):
            return "ranks are on one card, which computes for one of them at a time"
        refused = ""
        try:
            device.attach_words(words, runner.collective.rank, runner.collective.num_ranks)
        except DeviceError as error:
            refused = str(error)
        if max(runner.slowest([float(bool(refused))])):
            return refused or "another rank's device can't see that memory"
        return "" if self._try(device) else "what a device writes does not reach the others in time"

    def _try(self, device: WaitingDevice) -> bool:
        """Tells all ranks whether numbers come through."""
        self._header[0] = 1
        program = Program(1, 0, (Segment(tuple(Gather(index, 0, index) for index in (0, 1)), None),))
        self._runner.device.prepare(program)
        return any(self._come_through(device, program) for _ in range(NUM_ATTEMPTS))

    def _come_through(self, device: WaitingDevice, program: Program) -> bool:
        """The first attempt may fail because one device compiles the kernel longer than the others wait."""
        collective, failed = self._runner.collective, 0.0
        for number in range(NUM_TRIES):
            expected = np.stack(
                [known_numbers(number, rank, self._row_length) for rank in range(collective.num_ranks)]
            )
            found = device.tries_exchange(program, np.ascontiguousarray(expected[collective.rank]))
            failed += not np.array_equal(found, expected.transpose(1, 0, 2))
            self._runner.slowest([0.0])  # none begins another one before all have looked
        has_failed = max(self._runner.slowest([failed])) > 0
        if has_failed:
            self.resume()
        return not has_failed

    def _measured(self, device: WaitingDevice, ways: Sequence[str]) -> Waiting:
        name = NAME.format(4 * self._row_length)
        numbers = self._known(self._kept.get(name) if self._kept else {}, ways)
        if not numbers:
            numbers = self.measure(device, ways)
            shown = {way: round(seconds * 1e6, 1) for way, seconds in numbers.items() if seconds}
            log.info("%s, in microseconds: %s", name, shown)
            if self._kept:
                self._kept.put(name, numbers)
                self._kept.save()
        by_device = lowest(numbers, ways) == DEVICE
        return Waiting(lowest({way: numbers[way] for way in HOST_WAYS}, HOST_WAYS), by_device)

    def _known(self, kept: Numbers, ways: Sequence[str]) -> Numbers:
        """The kept seconds of these ways, known to one rank and told to all; nothing where any is missing."""
        seconds = self._runner.slowest([kept.get(way) or 0.0 for way in ways])
        return dict(zip(ways, seconds, strict=True)) if min(seconds) > 0 else {}

    def measure(self, device: WaitingDevice, ways: Sequence[str]) -> Numbers:
        """Seconds of an all-reduce by each way, on the slowest rank; None where none came to its end."""
        self._header[0] = 1
        programs, best = {}, dict.fromkeys(ways, math.inf)
        for way in ways:
            device.wait_by("block" if way == DEVICE else way)
            program = self._build()
            programs[way] = with_exchanges(program) if way == DEVICE else program
            assert way != DEVICE or can_exchange(program, self._row_length)
            self._runner.device.prepare(programs[way])
        num_all_reduces = max(program.num_all_reduces + program.num_gathers for program in programs.values())
        for _ in range(NUM_RUNS):
            for way, program in programs.items():  # by turns: what disturbs one should disturb all
                device.wait_by("block" if way == DEVICE else way)
                started = time.perf_counter()
                if not self._runner.run(program, 1, self._row_length, _unheard):
                    self.resume()
                    continue
                best[way] = min(best[way], (time.perf_counter() - started) / num_all_reduces)
        slowest = self._runner.slowest([min(best[way], 1e6) for way in ways])
        return {way: None if seconds >= 1e6 else seconds for way, seconds in zip(ways, slowest, strict=True)}

    def resume(self) -> None:
        """Goes on, with all ranks, behind an exchange in which devices waited in vain."""
        self._runner.slowest([0.0])
        if self._runner.collective.rank == 0:
            self._runner.collective.resume()
        self._runner.slowest([0.0])


def known_numbers(number: int, rank: int, count: int) -> npt.NDArray[np.float32]:
    """Numbers of each parity that no other rank and no other try has [2, count]."""
    first = np.float32(1 + 1000 * rank + 10 * number)
    numbers = np.arange(2 * count, dtype=np.float32).reshape(2, count)
    return np.asarray(first + numbers / 4, np.float32)


def cores(on_cpu: bool) -> tuple[int, int]:
    """The first core that a device computes on, and the one behind the last; the same two for a device
    elsewhere."""
    allowed = os.sched_getaffinity(0) if on_cpu else ()
    return (min(allowed), max(allowed) + 1) if allowed else (0, 0)


def shares_cores(spans: npt.NDArray[np.float32]) -> bool:
    """Tells whether any two of the ranks' spans of cores [ranks, 2] overlap."""
    held = sorted((start, stop) for start, stop in spans.tolist() if start < stop)
    return any(one[1] > other[0] for one, other in itertools.pairwise(held))


def card_numbers(card: str) -> list[float]:
    """Numbers that tell one card from another, exact in float32; zeros where there is none."""
    digest = hashlib.sha256(card.encode()).digest() if card else bytes(NUM_CARD_NUMBERS * 2)
    return list(map(float, np.frombuffer(digest, "<u2")[:NUM_CARD_NUMBERS]))


def shares_cards(numbers: npt.NDArray[np.float32]) -> bool:
    """Tells whether any two of the ranks have the same card, by their numbers [ranks, NUM_CARD_NUMBERS]."""
    cards = [tuple(of_rank) for of_rank in numbers.tolist() if any(of_rank)]
    return len(set(cards)) < len(cards)


def _unheard(_kind: str) -> None:
    pass
