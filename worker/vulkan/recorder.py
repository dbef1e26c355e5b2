"""Records a program: a reusable command buffer per segment, with a barrier only where ops collide."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

from tplaunch.worker.buffers.step import INDIRECT_WORD
from tplaunch.worker.ops.common import MatMul, Op
from tplaunch.worker.programs.program import Program, Segment, exchange_of
from tplaunch.worker.vulkan.api import Handle, call, ffi, lib, struct, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.places import Dispatch
from tplaunch.worker.vulkan.dispatch.table import dispatch
from tplaunch.worker.vulkan.memory import Slice
from tplaunch.worker.vulkan.pipelines import Pipelines
from tplaunch.worker.vulkan.timeline import Recorded
from tplaunch.worker.vulkan.timestamps import Timestamps
from tplaunch.worker.vulkan.waiting import EndWord

Ops = tuple[Op, ...]


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


def uncut(segment: Segment) -> list[Ops]:
    """A segment in one piece."""
    return [segment.ops]


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
        transfer, filled = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_ACCESS_TRANSFER_WRITE_BIT
        seen = vk.VK_ACCESS_HOST_READ_BIT
        self._at_end = (compute, host, memory_barrier(writes, seen))
        # The host reads what was computed as soon as it sees the word, so that goes first.
        self._before_word = (compute, host | transfer, memory_barrier(writes, seen | filled))
        self._after_word = (transfer, host, memory_barrier(filled, seen))

    def record(
        self,
        program: Program,
        context: DispatchContext,
        timestamps: Timestamps | None = None,
        end_word: EndWord | None = None,
        cut: Callable[[Segment], Sequence[Ops]] = uncut,
    ) -> Recorded:
        """Records every segment, between timestamps where there are any.

        end_word: what each segment but the last one sets at its end. cut: into the pieces of a segment.
        """
        pieces = [cut(segment) for segment in program.segments]
        dispatches = [[[dispatch(op, context) for op in ops] for ops in of_segment] for of_segment in pieces]
        self._pipelines.make(one.kernel for of_segment in dispatches for piece in of_segment for one in piece)
        buffers = self._context.command_buffers(sum(map(len, pieces)))
        place = itertools.count()
        for index, of_segment in enumerate(pieces):
            last = len(of_segment) - 1
            for number, ops in enumerate(of_segment):
                commands = buffers[next(place)]
                call("vkBeginCommandBuffer", commands, struct("VkCommandBufferBeginInfo"))
                if timestamps is not None and number == 0:
                    timestamps.put_begin(commands, index)
                self._record_piece(commands, ops, dispatches[index][number], timestamps)
                if timestamps is not None and number == last:
                    timestamps.put_end(commands, index)
                if end_word is not None and number == last and index + 1 < len(pieces):
                    self._put_word(commands, index, end_word)
                call("vkEndCommandBuffer", commands)
        return Recorded(buffers, tuple(map(len, pieces)))

    def _put_word(self, commands: Handle, segment: int, end_word: EndWord) -> None:
        put_barrier(commands, *self._before_word)
        end_word.put(commands, segment)
        put_barrier(commands, *self._after_word)

    def _record_piece(
        self, commands: Handle, ops: Ops, dispatches: Sequence[Dispatch], timestamps: Timestamps | None
    ) -> None:
        hazards = Hazards()
        put_barrier(commands, *self._at_begin)
        for op, one in zip(ops, dispatches, strict=True):
            if hazards.need_barrier(op):
                put_barrier(commands, *self._between)
            exchange = exchange_of(op) if timestamps is not None else None
            if timestamps is not None and exchange is not None:
                timestamps.put_exchange(commands, exchange.index, ends=False)
            self._put_dispatch(commands, one)
            if timestamps is not None and exchange is not None:
                timestamps.put_exchange(commands, exchange.index, ends=True)
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
