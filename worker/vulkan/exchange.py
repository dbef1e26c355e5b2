"""One device's end of exchanges that the devices make among themselves; worker/ops/exchange.py says how."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import NUM_PARITIES, WORD_BYTES, WORD_ELEMENTS
from tplaunch.worker.buffers.table import Placement
from tplaunch.worker.ops.exchange import (
    EXCHANGE,
    EXCHANGE_BYTES,
    FIRST_NUMBER,
    MAX_ROUNDS,
    WORDS,
    words_offset,
)
from tplaunch.worker.vulkan.api import Handle, lib, struct, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.dispatch.places import BufferPlace, PartialsLayout
from tplaunch.worker.vulkan.host_writes import write_floats
from tplaunch.worker.vulkan.memory import Memory, Slice
from tplaunch.worker.vulkan.waiting import MAX_ROUNDS_ON_CPU, MAX_ROUNDS_ON_GPU

LAST_NUMBER = 2**32 - 1
FLOAT = 4

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class DeviceExchange:
    """The words that all devices see, and in this device's memory the partial sums of all ranks."""

    def __init__(
        self, context: Context, memory: Memory, words: Bytes, rank: int, num_ranks: int, place: Slice
    ) -> None:
        """place: in which the device sees the words. Raises DeviceError where memory is short."""
        self._context, self._memory = context, memory
        self._words, self._rank, self._num_ranks = words, rank, num_ranks
        slot_bytes = WORD_ELEMENTS * FLOAT
        self._gathered = memory.allocate(NUM_PARITIES * num_ranks * slot_bytes, Placement.DEVICE)
        state = memory.allocate(EXCHANGE_BYTES, Placement.UPLOAD)
        assert state.mapped is not None
        self._state = state.mapped.view(np.uint32)
        self._state[MAX_ROUNDS] = MAX_ROUNDS_ON_CPU if context.info.type == "cpu" else MAX_ROUNDS_ON_GPU
        self._next_number = NUM_PARITIES  # 0 is what nobody has written
        self.layout = PartialsLayout(self._gathered.address, num_ranks, num_ranks, slot_bytes, rank)
        self._places = {WORDS: place, EXCHANGE: Slice(EXCHANGE_BYTES, 0, state)}

    def place(self, name: str) -> BufferPlace:
        """Returns the place of a buffer, of the exchange's own or of the model's."""
        return self._places.get(name) or self._memory[name]

    def begin_step(self, num_exchanges: int) -> None:
        """Numbers the exchanges of a step that is about to be submitted; all ranks count alike."""
        count = -(-num_exchanges // NUM_PARITIES) * NUM_PARITIES
        if self._next_number + count > LAST_NUMBER:
            self._begin_anew()
        self._state[FIRST_NUMBER] = self._next_number
        self._next_number += count

    def _begin_anew(self) -> None:
        """Numbers would come again: nobody may find this rank's old ones. Peers have ended their last
        step."""
        for parity in range(NUM_PARITIES):
            start = words_offset(parity, self._rank, self._num_ranks)
            self._words[start : start + WORD_ELEMENTS * WORD_BYTES] = 0
        self._next_number = NUM_PARITIES

    def put_own(self, parity: int, values: Floats) -> None:
        """Writes this rank's partial sums from the host, 16,384 of them at most; for trying only."""
        offset = (parity * self._num_ranks + self._rank) * self.layout.slot_bytes
        stage, access = vk.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, vk.VK_ACCESS_SHADER_READ_BIT
        write_floats(self._context, self._gathered.buffer, offset, values, stage=stage, access=access)

    def taken(self) -> Floats:
        """Returns the partial sums of all ranks [parities, ranks, WORD_ELEMENTS]; for trying only."""
        copy = self._memory.allocate(self._gathered.nbytes, Placement.READBACK)
        region: Handle = struct("VkBufferCopy", size=copy.nbytes)
        transfer, host = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_PIPELINE_STAGE_HOST_BIT
        compute = vk.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT
        gathered = memory_barrier(vk.VK_ACCESS_SHADER_WRITE_BIT, vk.VK_ACCESS_TRANSFER_READ_BIT)
        arrived = memory_barrier(vk.VK_ACCESS_TRANSFER_WRITE_BIT, vk.VK_ACCESS_HOST_READ_BIT)

        def record(commands: Handle) -> None:
            put_barrier(commands, compute, transfer, gathered)
            lib.vkCmdCopyBuffer(commands, self._gathered.buffer, copy.buffer, 1, region)
            put_barrier(commands, transfer, host, arrived)

        self._context.run_once(record)
        assert copy.mapped is not None
        values = copy.mapped.view(np.float32).reshape(NUM_PARITIES, self._num_ranks, -1).copy()
        self._memory.release(copy)
        return values
