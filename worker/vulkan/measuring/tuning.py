"""Times what a device can do in several ways: the variants of its kernels, and how a step is submitted.

Only numbers are found here: worker/measuring/measurements.py keeps them, variants.py chooses by them.
"""

from __future__ import annotations

import itertools
import logging
import math
import platform
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack

import numpy as np

from tplaunch.coordinator.split.limits import Limits
from tplaunch.shaders.load import kernels_hash
from tplaunch.worker.device import DeviceError
from tplaunch.worker.measuring.idle import LIMITS, idle_buffers, idle_program
from tplaunch.worker.measuring.measurements import Measurements, Numbers, cache_folder, lowest
from tplaunch.worker.ops.common import Op
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.questions import Asked, ask
from tplaunch.worker.vulkan.listing import PhysicalDevice
from tplaunch.worker.vulkan.measuring.allowance import Allowance, Runs, Until
from tplaunch.worker.vulkan.measuring.bench import Bench, open_bench, opened_anew
from tplaunch.worker.vulkan.measuring.rivals import Rivals, Seconds, all_rivals, key_counts, rounding_wins
from tplaunch.worker.vulkan.measuring.trials import Size, Trial, trials
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.timeline import Submission
from tplaunch.worker.vulkan.variants import Right, Variant, candidates, usable

# Of a start for measurements, on cards of the runs that are timed; the next one measures what is left over.
START_SECONDS = 1.5
COMPILE_SECONDS = 20.0  # of a card's start, on top of that
PROMPT_ROWS = 256  # of a GPU's trials of prompts
MAX_WEIGHTS, MAX_WEIGHTS_ON_CPU = 1 << 24, 1 << 21  # of a matrix: enough to time a kernel by
# No step finds weights in a cache. Of a card's matrix there are copies that take turns, four times the
# largest cache together, but no large part of its memory; a processor's caches are filled with other data,
# which has to be written once: pages that nobody wrote are all one page.
ROTATED_BYTES, SHARE_OF_MEMORY = 384 << 20, 8
CACHE_BYTES_OF_CPU = 64 << 20
NUM_ROUNDS, NUM_ROUNDS_ON_CPU = 10, 3  # a GPU takes some time to raise its clock
ROUND_SECONDS, MAX_REPEATS = 1e-3, 200  # in one submission, whose own cost then does not count
HOPELESS = 2.0  # times the fastest one's first run: not worth another
SUBMISSION, WAYS = "submission", ("ahead", "then_wait")
NUM_SEGMENTS, NUM_STEPS = 8, 20

log = logging.getLogger("worker")


def open_measurements(info: PhysicalDevice) -> Measurements:
    """Opens the user's measurements of this device, driver and set of kernels."""
    on_cpu = info.type == "cpu"
    return measurements_of(info.name, info.uuid, info.driver, info.driver_version, info.kind, on_cpu)


def measurements_of(
    name: str, uuid: str, driver: str, driver_version: int, kind: str, on_cpu: bool
) -> Measurements:
    """Opens the same of a device that is not open itself."""
    device = {
        "name": name,
        "uuid": uuid,
        "driver": driver,
        "driver_version": str(driver_version),
        "kind": kind,
    }
    if on_cpu:  # it is as fast as its host, and a home may be shared by several
        device["node"] = platform.node()
    return Measurements(cache_folder(), device, kernels_hash())


def submits_ahead(measurements: Measurements) -> bool:
    """Returns true if a step's segments are better queued at once; they are where that was not measured."""
    return lowest(measurements.get(SUBMISSION), WAYS) == WAYS[0]


def chosen(name: str, numbers: Numbers, features: Collection[str]) -> str:
    """The option of a measurement that a device with these features goes by."""
    if name == SUBMISSION:
        return lowest(numbers, WAYS)
    return lowest(numbers, [variant.suffix for variant in candidates(name.partition(" ")[0], features)])


class Tuner:
    """Measures what is missing in `measurements`, or everything `anew`; of variants those that are right."""

    def __init__(
        self,
        context: Context,
        pipelines: Pipelines,
        measurements: Measurements,
        right: Right,
        anew: bool = False,
    ) -> None:
        self._context, self._pipelines, self._measurements = context, pipelines, measurements
        self._right, self._anew = right, anew
        # A driver for CPUs may have to share its core, which must not count; its work is this process's.
        self._on_cpu = context.info.type == "cpu"
        self._clock = time.process_time if self._on_cpu else time.perf_counter
        self._other_data = np.ones(CACHE_BYTES_OF_CPU // 4 if self._on_cpu else 0, np.float32)

    def tune(self, program: Program, kv_type: str, seconds: float) -> None:
        """All that the program and others of its model have a choice of, as far as the time goes.

        What fails is done without, unless the measurement is what was asked for: then it raises DeviceError.
        """
        allowance = Until(time.monotonic() + seconds) if self._on_cpu else Runs(seconds)
        try:
            if len(program.segments) > 1 and self._is_wanted(SUBMISSION, WAYS):
                self._put(SUBMISSION, self._time_submission())
            wanted = [
                trial for trial in trials(program, kv_type, self.size(), self._asks) if self._is_choice(trial)
            ]
            if not self._on_cpu and not allowance.is_used_up:
                self._compile(wanted)
            for trial in wanted:
                self._try(trial, allowance)
        except DeviceError as error:
            if self._anew:
                raise
            log.info("the rest is not measured: %s", error)
        self._measurements.save()

    def rounding_wins(self, programs: Sequence[Program], kv_type: str, context_length: int) -> bool:
        """Tells if products of prompts that are to be rounded are faster so than in float32.

        It measures what is missing however long that takes: what a run computes must not depend on how busy
        its start was.
        """
        wins = all(
            rounding_wins(all_rivals(programs, kv_type, self.size(), self._asks, keys), self._compare)
            for keys in key_counts(context_length)
        )
        self._measurements.save()
        return wins

    def _compare(self, rivals: Rivals) -> Seconds:
        """Seconds of the fastest variant of each, without one that has none."""
        if self._is_wanted(rivals.name, list(rivals.trials)):
            best: Numbers = {}
            self._compile(rivals.trials.values())
            for kind, trial in rivals.trials.items():
                numbers = self.times(trial, self._usable(trial), Until(math.inf))
                self._put(trial.family, numbers)  # by which one of its variants is chosen
                best[kind] = min((number for number in numbers.values() if number is not None), default=None)
            self._put(rivals.name, best)
        kept = self._measurements.get(rivals.name)
        return {kind: seconds for kind, seconds in kept.items() if seconds is not None}

    def size(self) -> Size:
        """How large trials are on this device."""
        if self._on_cpu:
            return Size(MAX_WEIGHTS_ON_CPU)
        rotated = min(ROTATED_BYTES, self._context.info.available_bytes // SHARE_OF_MEMORY)
        return Size(MAX_WEIGHTS, rotated, PROMPT_ROWS)

    def _seconds(self, bench: Bench, submission: Submission, allowance: Allowance) -> float:
        """Times a run that finds nothing of its own in a processor's caches."""
        self._other_data.sum()
        seconds = bench.seconds(submission, self._clock)
        allowance.count(seconds)
        return seconds

    def _ask(self, op: Op, limits: Limits) -> Asked:
        info = self._context.info
        return ask(op, limits, info.features, info.sizes.widest, info.max_invocations, info.team_lanes)

    def _asks(self, op: Op, limits: Limits) -> list[tuple[str, int]]:
        """Returns the choice that the dispatcher itself would ask for."""
        asked = self._ask(op, limits)
        return [] if asked.family is None else [(asked.family, asked.matrix_rows)]

    def _usable(self, trial: Trial) -> tuple[Variant, ...]:
        return usable(trial.family, self._context.info.features, self._right)

    def _kernels(self, trial: Trial) -> list[str]:
        """The kernels of a trial's variants."""
        return list(map(self._ask(trial.op, trial.limits).kernel_of, self._usable(trial)))

    def _compile(self, wanted: Iterable[Trial]) -> None:
        """Compiles what trials run, several kernels at a time."""
        self._pipelines.make((kernel for trial in wanted for kernel in self._kernels(trial)), COMPILE_SECONDS)

    def _is_wanted(self, name: str, options: Sequence[str]) -> bool:
        return self._anew or not self._measurements.get(name).keys() >= set(options)

    def _put(self, name: str, numbers: Numbers) -> None:
        shown = {option: number and round(number * 1e6, 2) for option, number in numbers.items()}
        log.info("measured on %s, in microseconds: %s: %s", self._context.info.name, name, shown)
        self._measurements.put(name, numbers)

    def _is_choice(self, trial: Trial) -> bool:
        """Tells if there are several variants, of which one was not measured."""
        suffixes = [variant.suffix for variant in self._usable(trial)]
        return len(suffixes) > 1 and self._is_wanted(trial.name, suffixes)

    def _try(self, trial: Trial, allowance: Allowance) -> None:
        is_late = not (self._on_cpu or self._anew or self._pipelines.has(self._kernels(trial)))
        numbers = {} if is_late else self.times(trial, self._usable(trial), allowance)
        if numbers:
            self._put(trial.name, numbers)
            self._measurements.save()  # a start that is ended in the middle has not measured in vain
        else:
            log.info("%s is left to the next start to measure", trial.name)

    def times(self, trial: Trial, variants: Sequence[Variant], allowance: Allowance) -> Numbers:
        """Seconds of a run of each variant, None for one with other bits than the first. Empty when it got
        late. Raises DeviceError."""
        if allowance.is_used_up:
            return {}
        with open_bench(self._context, self._pipelines, trial.buffers, trial.limits) as bench:
            trial.fill(bench.memory)
            return self._time_variants(bench, trial, variants, allowance)

    def _time_variants(
        self, bench: Bench, trial: Trial, variants: Sequence[Variant], allowance: Allowance
    ) -> Numbers:
        """As times() has it."""
        numbers = self._run_once(bench, trial, variants, allowance)
        if not numbers:
            return {}
        best = min(number for number in numbers.values() if number is not None)
        repeats = 1 if self._on_cpu else max(len(trial.ops), min(MAX_REPEATS, int(ROUND_SECONDS / best)))
        worthwhile = {
            variant.suffix: bench.prepare(_repeated(trial, repeats), variant)
            for variant in variants
            if (numbers[variant.suffix] or math.inf) < HOPELESS * best
        }
        for _ in range(NUM_ROUNDS_ON_CPU if self._on_cpu else NUM_ROUNDS):
            for suffix, submission in worthwhile.items():  # by turns: what disturbs one should disturb all
                seconds = self._seconds(bench, submission, allowance) / repeats
                numbers[suffix] = min(numbers[suffix] or math.inf, seconds)
            if allowance.is_used_up:
                break
        return numbers

    def _run_once(
        self, bench: Bench, trial: Trial, variants: Sequence[Variant], allowance: Allowance
    ) -> Numbers:
        """The same, of a single run each, behind the one that compiles the kernel."""
        numbers: Numbers = {}
        expected: list[bytes] | None = None
        for variant in variants:
            if allowance.is_used_up:
                return {}
            once = bench.prepare(_repeated(trial, 1), variant)
            bench.seconds(once)
            results = trial.take_results(bench.memory)
            expected = expected or results
            seconds = self._seconds(bench, once, allowance)
            numbers[variant.suffix] = seconds if results == expected else None
            if results != expected:
                kernel = trial.family + variant.suffix
                log.warning("%s computes other bits than its like, and is not used", kernel)
        return numbers

    def _time_submission(self) -> Numbers:
        """Seconds of a segment that does next to nothing: of its way to the device and back."""
        best = dict.fromkeys(WAYS, math.inf)
        with ExitStack() as stack:
            steps = {}
            for way in WAYS:
                device = self._context, self._pipelines
                if not self._on_cpu:  # a driver's queue may change its ways for good once it has waited
                    device = stack.enter_context(opened_anew(self._context.info))
                bench = stack.enter_context(open_bench(*device, idle_buffers(), LIMITS, ahead=way == WAYS[0]))
                steps[way] = bench, bench.prepare(idle_program(NUM_SEGMENTS))
            for _ in range(NUM_STEPS):
                for way, (bench, submission) in steps.items():
                    best[way] = min(best[way], bench.seconds(submission) / NUM_SEGMENTS)
        return dict(best)


def _repeated(trial: Trial, repeats: int) -> Program:
    ops = tuple(itertools.islice(itertools.cycle(trial.ops), repeats))
    return Program(trial.rows, 0, (Segment(ops, None),))
