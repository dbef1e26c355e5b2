"""Runs programs on buffers of their own, and times them: what measurements are made with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.table import Buffer
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.places import PartialsLayout
from tplaunch.worker.vulkan.listing import PhysicalDevice
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.recorder import Recorder
from tplaunch.worker.vulkan.timeline import Submission, Timeline
from tplaunch.worker.vulkan.variants import Always, Variant

TIMEOUT_SECONDS = 60.0  # of one run: a driver may take most of that to compile a kernel
NO_PARTIALS = PartialsLayout(0, 0, 0, 0, 0)


class Bench:
    """Runs programs on buffers of its own."""

    def __init__(self, context: Context, pipelines: Pipelines, limits: Limits, ahead: bool) -> None:
        self._context, self._pipelines, self._limits = context, pipelines, limits
        self._timeline = Timeline(context, ahead, TIMEOUT_SECONDS)
        self.memory = Memory(context, unmapped=False)

    def prepare(self, program: Program, variant: Variant | None = None) -> Submission:
        """Ready to run any number of times."""
        context = DispatchContext(
            program,
            self.memory.__getitem__,
            NO_PARTIALS,
            self._limits,
            self._context.info.sizes.widest,
            self._context.info.max_invocations,
            Always(variant or Variant("")),
            self._context.info.team_lanes,
        )
        recorder = Recorder(self._context, self._pipelines, self.memory["step"])
        return self._timeline.submission(recorder.record(program, context))

    def seconds(self, submission: Submission, clock: Callable[[], float] = time.perf_counter) -> float:
        """Times a run, with nothing to do for the host between segments."""
        started = clock()
        self._timeline.submit(submission)
        for segment in range(submission.num_segments):
            if segment:
                self._timeline.release(segment)
            self._timeline.wait(segment)
        return clock() - started

    def close(self) -> None:
        if self._timeline.drain():  # else it is in use: freeing it could hang
            self.memory.close()
            self._timeline.close()


@contextmanager
def open_bench(
    context: Context, pipelines: Pipelines, buffers: Mapping[str, Buffer], limits: Limits, ahead: bool = True
) -> Iterator[Bench]:
    """Frees the buffers at the end; raises DeviceError where there is no room for them."""
    bench = Bench(context, pipelines, limits, ahead)
    try:
        bench.memory.create(buffers)
        yield bench
    finally:
        bench.close()


@contextmanager
def opened_anew(info: PhysicalDevice) -> Iterator[tuple[Context, Pipelines]]:
    """Opens the device once more, apart from the one that runs programs."""
    context = Context(info.index, info.uuid)
    try:
        pipelines = Pipelines(context)
        try:
            yield context, pipelines
        finally:
            pipelines.close()
    finally:
        context.close()
