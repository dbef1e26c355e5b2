"""Runs cases on an opened Vulkan device, on buffers that are there for one case each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.buffers.stack_parts import WHOLE
from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.device import COPY, Copy, DeviceError, FillPlaces, KernelRefused, Place
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.copying import copy_inside
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.places import PartialsLayout, Selects
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.recorder import Recorder
from tplaunch.worker.vulkan.timeline import Submission, Timeline

Bytes = npt.NDArray[np.uint8]


class CaseDevice:
    """A Device for one case. It shares the compiled kernels of the device whose context it has."""

    sharing = COPY
    tells_prompts_apart = True  # as far as a case does
    groups_logits = False
    max_buffer_bytes = WHOLE  # no case has large ones
    prompt_rows = 0

    def __init__(
        self, context: Context, pipelines: Pipelines, timeline: Timeline, limits: Limits, selection: Selects
    ) -> None:
        self._context, self._pipelines, self._timeline = context, pipelines, timeline
        self._limits, self._selection = limits, selection
        self.name, self.kind = context.info.name, context.info.kind
        self._memory = Memory(context, unmapped=False)
        self._layout = PartialsLayout(0, 0, 0, 0, 0)
        self._submission: Submission | None = None
        self._in_use = False

    def create_buffers(self, buffers: Mapping[str, Buffer]) -> None:
        self._memory.create(buffers)

    def fill(self, buffer: str, places: Sequence[Place], write: FillPlaces) -> None:
        self._memory.fill(buffer, places, write)

    def finish_loading(self) -> Sequence[str]:
        self._memory.free_staging()
        return ()

    def view(self, buffer: str) -> Bytes:
        mapped = self._memory[buffer].mapped
        assert mapped is not None, f"the buffer {buffer!r} is the device's alone"
        return mapped

    def attach_partials(self, arena: Bytes, write_slot: int, num_partials: int) -> None:
        """Keeps a copy, there and back: whether the arena can be imported is for the run to find out."""
        block = self._memory.allocate(arena.nbytes, Placement.READBACK)
        assert block.mapped is not None
        self._arena, self._copy = arena, block.mapped.reshape(arena.shape)
        self._copy[:] = arena
        _, num_slots, slot_bytes = arena.shape
        self._layout = PartialsLayout(block.address, num_slots, num_partials, slot_bytes, write_slot)

    def prepare(self, program: Program) -> None:
        """Raises KernelRefused."""
        context = DispatchContext(
            program,
            self._memory.__getitem__,
            self._layout,
            self._limits,
            self._context.info.sizes.widest,
            self._context.info.max_invocations,
            self._selection,
            self._context.info.team_lanes,
        )
        recorder = Recorder(self._context, self._pipelines, self._memory["step"])
        try:
            self._submission = self._timeline.submission(recorder.record(program, context))
        except DeviceError as error:
            raise KernelRefused(str(error)) from error

    def copy(self, copies: Sequence[Copy]) -> None:
        copy_inside(self._context, self._memory, copies)

    def submit(self, program: Program, num_rows: int) -> None:
        assert self._submission is not None, "no program was prepared"
        self._timeline.submit(self._submission)

    def finish(self, segment: int) -> None:
        self._in_use = True
        self._timeline.wait(segment)
        self._in_use = False
        self._arena[:] = self._copy

    def release(self, segment: int) -> None:
        self._timeline.release(segment)

    def close(self) -> None:
        """Leaves memory that a late kernel would still write to: a driver may take minutes to compile one."""
        if not self._in_use:
            self._memory.close()
