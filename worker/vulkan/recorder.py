"""Records a program: a reusable command buffer per segment, with a barrier only where ops collide."""

from __future__ import annotations

import sys

from tplaunch.worker.buffers.step import INDIRECT_WORD
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.programs.program import Program, Segment
from tplaunch.worker.vulkan.api import Handle, call, ffi, lib, struct, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.dispatch.table import dispatch
from tplaunch.worker.vulkan.memory import Slice
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.timestamps import Timestamps


class Hazards:
    """The buffers that were read and written since the last barrier."""

    def __init__(self) -> None:
        self._read: set[str] = set()
        self._written: dict[str, list[range]] = {}  # the columns, by buffer

    def need_barrier(self, op: Op) -> bool:
        """Returns true if op touches written data or overwrites data that was read; counts op in."""
        columns = _written_columns(op)
        overwrites = any(
            _overlap(columns, other) for name in op.writes for other in self._written.get(name, ())
        )
        needed = overwrites or bool(op.reads & self._written.keys() or op.writes & self._read)
        if needed:
            self._read, self._written = set(), {}
        self._read |= op.reads
        for name in op.writes:
            self._written.setdefault(name, []).append(columns)
        return needed


def _written_columns(op: Op) -> range:
    """Products may lie side by side in a buffer; others are taken to write all of it."""
    if isinstance(op, MatMul):
        return range(op.output_offset, op.output_offset + op.columns)
    return range(sys.maxsize)


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


class Recorder:
    """Writes dispatches into command buffers."""

    def __init__(self, context: Context, pipelines: Pipelines, step: Slice) -> None:
        self._context, self._pipelines = context, pipelines
        assert step.block is not None, "the step buffer is empty"
        self._indirect = (step.block.buffer, step.offset + INDIRECT_WORD * 4)
        reads = vk.VK_ACCESS_SHADER_READ_BIT
        writes = vk.VK_ACCESS_SHADER_WRITE_BIT
        both, indirect = reads | writes, vk.VK_ACCESS_INDIRECT_COMMAND_READ_BIT
        compute = vk.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT
        host = vk.VK_PIPELINE_STAGE_HOST_BIT
        started = compute | vk.VK_PIPELINE_STAGE_DRAW_INDIRECT_BIT
        from_host = memory_barrier(vk.VK_ACCESS_HOST_WRITE_BIT | writes, both | indirect)
        # (stages before, stages after, what is made visible)
        self._at_begin = (host | compute, started, from_host)
        self._between = (compute, compute, memory_barrier(writes, both))
        self._at_end = (compute, host, memory_barrier(writes, vk.VK_ACCESS_HOST_READ_BIT))

    def record(
        self, program: Program, context: DispatchContext, timestamps: Timestamps | None = None
    ) -> Handle:
        """A C array with the command buffer of every segment, between timestamps where there are any."""
        buffers = self._context.command_buffers(len(program.segments))
        for index, segment in enumerate(program.segments):
            call("vkBeginCommandBuffer", buffers[index], struct("VkCommandBufferBeginInfo"))
            if timestamps is not None:
                timestamps.put_begin(buffers[index], index)
            self._record_segment(buffers[index], segment, context)
            if timestamps is not None:
                timestamps.put_end(buffers[index], index)
            call("vkEndCommandBuffer", buffers[index])
        return buffers

    def _record_segment(self, commands: Handle, segment: Segment, context: DispatchContext) -> None:
        hazards = Hazards()
        put_barrier(commands, *self._at_begin)
        for op in segment.ops:
            if hazards.need_barrier(op):
                put_barrier(commands, *self._between)
            self._put_dispatch(commands, dispatch(op, context))
        put_barrier(commands, *self._at_end)

    def _put_dispatch(self, commands: Handle, dispatch: Dispatch) -> None:
        compute, push = vk.VK_PIPELINE_BIND_POINT_COMPUTE, bytes(dispatch.push)
        layout, stage = self._pipelines.layout, vk.VK_SHADER_STAGE_COMPUTE_BIT
        lib.vkCmdBindPipeline(commands, compute, self._pipelines[dispatch.kernel])
        lib.vkCmdPushConstants(commands, layout, stage, 0, len(push), ffi.from_buffer(push))
        if dispatch.groups is None:
            lib.vkCmdDispatchIndirect(commands, *self._indirect)
        else:
            lib.vkCmdDispatch(commands, *dispatch.groups)
