"""All places of a device's partial sums: the arena that ranks share, memory of its own, and words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import Backing
from tplaunch.worker.buffers.table import Placement
from tplaunch.worker.device import COPY, SHARINGS
from tplaunch.worker.ops.exchange import ARENA
from tplaunch.worker.programs.program import Phase, Program, Segment
from tplaunch.worker.vulkan.api import Handle, ffi, lib, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.places import BufferPlace, PartialsLayout
from tplaunch.worker.vulkan.exchange import DeviceExchange
from tplaunch.worker.vulkan.memory import Memory, Slice
from tplaunch.worker.vulkan.partials import Arena, ImportedPartials, StagedPartials, attach

FLOAT = 4

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class DeviceSums:
    """One device's. Which of the places a program's kernels write to, the program tells."""

    def __init__(self, context: Context, memory: Memory, staging: bool) -> None:
        """staging: the arena is copied, whatever the driver could do."""
        self._context, self._memory = context, memory
        self._ways = [COPY] if staging else list(SHARINGS)
        self._backing: Backing | None = None
        self._arena: Arena | None = None
        self._shared: ImportedPartials | StagedPartials | None = None
        self.staged: StagedPartials | None = None  # what is to be copied around an all-reduce
        self._shared_layout = PartialsLayout(0, 0, 0, 0, 0)
        self._own_layout: PartialsLayout | None = None  # once a program needs it
        self.exchange: DeviceExchange | None = None

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
        self._arena = Arena(memory, write_slot, num_partials, self._backing)
        self._attach(self._arena)

    def _attach(self, arena: Arena) -> None:
        self._shared = attach(self._context, self._memory, arena, self._ways)
        self.staged = self._shared if isinstance(self._shared, StagedPartials) else None
        del self._ways[: self._ways.index(self._shared.way)]
        _, num_slots, slot_bytes = arena.memory.shape
        self._shared_layout = PartialsLayout(
            self._shared.address, num_slots, arena.num_partials, slot_bytes, arena.write_slot
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

    def attach_words(self, words: Bytes, rank: int, num_ranks: int) -> None:
        """See WaitingDevice."""
        self.exchange = DeviceExchange(
            self._context, self._memory, words, rank, num_ranks, self.way, self._backing
        )

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
        data, shared = np.ascontiguousarray(values), self._shared
        offset = shared.distance + self._arena.write_slot * self._shared_layout.slot_bytes
        transfer, host = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_PIPELINE_STAGE_HOST_BIT
        seen = memory_barrier(vk.VK_ACCESS_TRANSFER_WRITE_BIT, vk.VK_ACCESS_HOST_READ_BIT)

        def record(commands: Handle) -> None:
            lib.vkCmdUpdateBuffer(commands, shared.block.buffer, offset, data.nbytes, ffi.from_buffer(data))
            put_barrier(commands, transfer, host, seen)

        self._context.run_once(record)
        if self.staged is not None:
            self.staged.copy_out(0, Phase.ONE_SHOT, data.size, FLOAT)

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
        if self._shared is not None:
            self._shared.close()
        if self.exchange is not None:
            self.exchange.close()
