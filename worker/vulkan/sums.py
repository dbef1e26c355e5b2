"""All places of a device's partial sums: the arena that ranks share, memory of its own, and words."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import Backing
from tplaunch.worker.buffers.table import Placement
from tplaunch.worker.device import COPY, EXPORT, OWN_SHARINGS, DeviceError
from tplaunch.worker.ops.exchange import ARENA
from tplaunch.worker.programs.program import Phase, Program, Segment
from tplaunch.worker.vulkan.api import Handle, ffi, lib, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.places import BufferPlace, PartialsLayout
from tplaunch.worker.vulkan.exchange import DeviceExchange
from tplaunch.worker.vulkan.exports import export_block
from tplaunch.worker.vulkan.host_writes import write_floats
from tplaunch.worker.vulkan.imports import check_size, import_dma_buf
from tplaunch.worker.vulkan.memory import Memory, Slice, free
from tplaunch.worker.vulkan.partials import Arena, ImportedPartials, StagedPartials, attach, import_by
from tplaunch.worker.vulkan.staging import Block

FLOAT = 4

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class DeviceSums:
    """One device's. Which of the places a program's kernels write to, the program tells."""

    def __init__(self, context: Context, memory: Memory, staging: bool) -> None:
        """staging: the arena is copied, whatever the driver could do."""
        self._context, self._memory = context, memory
        self._ways = [COPY] if staging else list(OWN_SHARINGS)
        self.can_move = not staging and context.info.dma_buf_import
        self.can_export = not staging and context.info.dma_buf_export
        self._exported: Block | None = None  # and not moved to yet
        self._before_move: tuple[Arena, ImportedPartials | StagedPartials] | None = None
        self._backing: Backing | None = None
        self._arena: Arena | None = None
        self._shared: ImportedPartials | StagedPartials | None = None
        self.staged: StagedPartials | None = None  # what is to be copied around an all-reduce
        self._shared_layout = PartialsLayout(0, 0, 0, 0, 0)
        self._own_layout: PartialsLayout | None = None  # once a program needs it
        self.exchange: DeviceExchange | None = None
        self._words_block: Block | None = None  # where they are not in the arena's

    @property
    def way(self) -> str:
        """Tells how the arena is shared; before it is attached, how that will be tried first."""
        return self._ways[0] if self._shared is None else self._shared.way

    def back(self, backing: Backing) -> None:
        """Tells the file behind the arena."""
        self._backing = backing

    def attach(self, memory: Bytes, write_slot: int, num_partials: int) -> None:
        """See Device.attach_partials."""
        assert self._shared is None, "partials are attached once"
        self._attach(Arena(memory, write_slot, num_partials, self._backing))

    def _attach(self, arena: Arena) -> None:
        shared = attach(self._context, self._memory, arena, self._ways)
        del self._ways[: self._ways.index(shared.way)]
        self._share(arena, shared)

    def _share(self, arena: Arena, shared: ImportedPartials | StagedPartials) -> None:
        self._arena, self._shared = arena, shared
        self.staged = shared if isinstance(shared, StagedPartials) else None
        _, num_slots, slot_bytes = arena.memory.shape
        self._shared_layout = PartialsLayout(
            shared.address, num_slots, arena.num_partials, slot_bytes, arena.write_slot
        )

    def share_otherwise(self) -> bool:
        """See SharingDevice."""
        assert self._arena is not None and self._shared is not None, "no partials are attached"
        if self._shared.way == COPY:
            return False
        self._shared.close()
        del self._ways[0]
        self._attach(self._arena)
        return True

    def export(self, num_bytes: int) -> int:
        """See Mover."""
        assert self._exported is None and self._before_move is None, "another move has not ended"
        self._exported, descriptor = export_block(self._context, num_bytes)
        return descriptor

    def move(self, arena: Bytes, descriptor: int, num_bytes: int) -> None:
        """See Mover."""
        assert self._arena is not None and self._shared is not None, "no partials are attached"
        block, self._exported = self._exported, None
        if block is None:
            check_size(self._context, num_bytes, "import")
            block = import_dma_buf(self._context, os.dup(descriptor), num_bytes)
        moved = replace(self._arena, memory=arena, backing=None)
        shared = ImportedPartials(self._context, moved, EXPORT, block, 0)
        self._before_move = (self._arena, self._shared)
        self._share(moved, shared)

    def end_move(self, stays: bool) -> None:
        """See Mover."""
        if self._exported is not None:
            free(self._context, self._exported)
            self._exported = None
        if self._before_move is None:
            return
        (arena, shared), self._before_move = self._before_move, None
        if not stays:
            assert self._shared is not None
            self._shared.close()
            self._share(arena, shared)
        elif isinstance(shared, StagedPartials):
            self._memory.release(shared.block)
        else:
            shared.close()

    def attach_words(self, words: Bytes, rank: int, num_ranks: int) -> None:
        """See WaitingDevice."""
        if self.way == COPY:
            raise DeviceError("the driver can't import the memory that ranks share")
        if self.way == EXPORT:
            assert self._arena is not None and self._shared is not None
            place = Slice(words.nbytes, 0, self._shared.block, self._arena.memory.nbytes)
        else:
            self._words_block, distance = import_by(self._context, self.way, words, self._backing)
            place = Slice(words.nbytes, 0, self._words_block, distance)
        self.exchange = DeviceExchange(self._context, self._memory, words, rank, num_ranks, place)

    def layout(self, program: Program) -> PartialsLayout:
        """Returns the place of what a program's kernels call partials."""
        if program.num_gathers:
            assert self.exchange is not None, "no words were attached"
            return self.exchange.layout
        if not program.has_moves:
            return self._shared_layout
        if self._own_layout is None:
            shared = self._shared_layout
            block = self._memory.allocate(shared.num_slots * shared.slot_bytes, Placement.DEVICE)
            # Both parities are one: nobody else reads it, and a device does one thing after another.
            self._own_layout = replace(shared, address=block.address, num_parities=1)
        return self._own_layout

    def place(self, name: str) -> BufferPlace:
        """Returns the place of a buffer: the arena, one of an exchange's, or one of the model's."""
        if name == ARENA:
            assert self._arena is not None and self._shared is not None, "no partials are attached"
            return Slice(self._arena.memory.nbytes, 0, self._shared.block, self._shared.distance)
        return self._memory[name] if self.exchange is None else self.exchange.place(name)

    def begin_step(self, program: Program) -> None:
        """A step is about to be submitted."""
        if self.exchange is not None and program.num_gathers:
            self.exchange.begin_step(program.num_gathers)

    def copy_out(self, ended: Segment, num_rows: int) -> None:
        """After a segment of a step of so many rows, where the arena is copied."""
        if self.staged is not None and ended.parity is not None:
            self.staged.copy_out(ended.parity, ended.phase, *self._in_use(ended, num_rows))

    def copy_in(self, ended: Segment, num_rows: int) -> None:
        """After the all-reduce behind a segment."""
        if self.staged is not None and ended.parity is not None:
            self.staged.copy_in(ended.parity, ended.phase, *self._in_use(ended, num_rows))

    def _in_use(self, ended: Segment, num_rows: int) -> tuple[int, int]:
        """Returns the elements in use of a slot at the end of a segment, and the bytes of one."""
        return ended.num_elements(num_rows, self._memory["hidden"].row_length), ended.element_bytes

    def put(self, values: Floats) -> None:
        """See SharingDevice."""
        assert self._arena is not None and self._shared is not None, "no partials are attached"
        offset = self._shared.distance + self._arena.write_slot * self._shared_layout.slot_bytes
        stage, access = vk.VK_PIPELINE_STAGE_HOST_BIT, vk.VK_ACCESS_HOST_READ_BIT
        write_floats(self._context, self._shared.block.buffer, offset, values, stage=stage, access=access)
        if self.staged is not None:
            self.staged.copy_out(0, Phase.ONE_SHOT, values.size, FLOAT)

    def seen(self, count: int) -> Floats:
        """See SharingDevice."""
        assert self._arena is not None and self._shared is not None, "no partials are attached"
        shared, num_partials = self._shared, self._arena.num_partials
        if self.staged is not None:
            self.staged.copy_in(0, Phase.ONE_SHOT, count, FLOAT)
        copy = self._memory.allocate(num_partials * count * FLOAT, Placement.READBACK)
        regions: Handle = ffi.new(
            "VkBufferCopy[]",
            [
                (
                    shared.distance + slot * self._shared_layout.slot_bytes,
                    slot * count * FLOAT,
                    count * FLOAT,
                )
                for slot in range(num_partials)
            ],
        )
        transfer, host = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_PIPELINE_STAGE_HOST_BIT
        written = memory_barrier(vk.VK_ACCESS_HOST_WRITE_BIT, vk.VK_ACCESS_TRANSFER_READ_BIT)
        arrived = memory_barrier(vk.VK_ACCESS_TRANSFER_WRITE_BIT, vk.VK_ACCESS_HOST_READ_BIT)

        def record(commands: Handle) -> None:
            put_barrier(commands, host, transfer, written)
            lib.vkCmdCopyBuffer(commands, shared.block.buffer, copy.buffer, num_partials, regions)
            put_barrier(commands, transfer, host, arrived)

        self._context.run_once(record)
        assert copy.mapped is not None
        values = copy.mapped[: num_partials * count * FLOAT].view(np.float32).reshape(num_partials, -1).copy()
        self._memory.release(copy)
        return values

    def close(self) -> None:
        """Lets go of the host's memory; what the memory allocated, the memory frees."""
        self.end_move(stays=False)
        if self._shared is not None:
            self._shared.close()
        if self._words_block is not None:
            free(self._context, self._words_block)
