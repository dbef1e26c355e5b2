"""The collective's arena as kernels see it: the memory that ranks share, or a copy that is kept in step.

An arena is [2, slots, slot bytes]: two parities by turns, each with slots for partial sums. The device writes
one of them, and reads the first `num_partials`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import Backing, rank_slice
from tplaunch.worker.buffers.table import Placement
from tplaunch.worker.device import COPY, DMA_BUF, IMPORT, DeviceError
from tplaunch.worker.programs.program import Phase
from tplaunch.worker.vulkan.api import Handle, lib, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.imports import import_file, import_pages
from tplaunch.worker.vulkan.memory import Memory, free
from tplaunch.worker.vulkan.staging import Block

PROBE = 0x7A3C51E9  # what the device writes to see whether an import is the host's memory indeed
FLOAT = 4

Bytes = npt.NDArray[np.uint8]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arena:
    """The memory of an arena, the slot that the device writes, and the number of those that it reads."""

    memory: Bytes  # [2, slots, slot bytes]
    write_slot: int
    num_partials: int
    backing: Backing | None = None

    def own_slice(self, count: int) -> slice:
        """Returns this rank's elements of `count`; where there are phases, every rank has a slot."""
        return rank_slice(self.write_slot, self.num_partials, count)


def attach(
    context: Context, memory: Memory, arena: Arena, ways: Sequence[str]
) -> ImportedPartials | StagedPartials:
    """Takes the first of some ways that the driver goes; copying, the last one, no driver can refuse."""
    for way in ways:
        if way == COPY:
            break
        try:
            return ImportedPartials(
                context, arena, way, *import_by(context, way, arena.memory, arena.backing)
            )
        except DeviceError as error:
            logger.info("%s does not share partial sums by %s: %s", context.info.name, way, error)
    return StagedPartials(memory, arena)


def import_by(context: Context, way: str, memory: Bytes, backing: Backing | None) -> tuple[Block, int]:
    """Imports some of the host's memory. Returns its pages, and where in them it begins.

    way: IMPORT or DMA_BUF. Raises DeviceError where the driver refuses.
    """
    if way == DMA_BUF:
        return import_file(context, memory, backing)
    assert way == IMPORT, f"nothing is imported by {way}"
    return import_pages(context, memory)


class ImportedPartials:
    """The arena's own memory. Raises DeviceError where the driver only says so, and has let go of it."""

    def __init__(self, context: Context, arena: Arena, way: str, block: Block, distance: int) -> None:
        """block: the memory that the arena is in, so far behind its beginning."""
        self._context, self.way = context, way
        self._arena = arena  # stays mapped as long as the device may write to it
        self.block, self.distance = block, distance
        self.address = self.block.address + self.distance
        try:
            self._probe(arena.memory[0, arena.write_slot])
        except DeviceError:
            self.close()
            raise

    def _probe(self, slot: Bytes) -> None:
        """Has the device write a word of its own slot, which no other rank reads yet."""
        word = slot[:4].view(np.uint32)
        before = int(word[0])
        offset = self.distance + self._arena.write_slot * self._arena.memory.shape[2]
        filled, seen = vk.VK_ACCESS_TRANSFER_WRITE_BIT, vk.VK_ACCESS_HOST_READ_BIT
        to_host = (
            vk.VK_PIPELINE_STAGE_TRANSFER_BIT,
            vk.VK_PIPELINE_STAGE_HOST_BIT,
            memory_barrier(filled, seen),
        )

        def record(commands: Handle) -> None:
            lib.vkCmdFillBuffer(commands, self.block.buffer, offset, 4, PROBE)
            put_barrier(commands, *to_host)

        self._context.run_once(record)
        arrived = int(word[0]) == PROBE
        word[0] = before
        if not arrived:
            raise DeviceError("the driver imported host memory, but what it writes does not arrive there")

    def close(self) -> None:
        free(self._context, self.block)


class StagedPartials:
    """A mapped buffer laid out like the arena; only the bytes in use are copied, and by the host."""

    way, distance = COPY, 0

    def __init__(self, memory: Memory, arena: Arena) -> None:
        self.block = memory.allocate(arena.memory.nbytes, Placement.READBACK)
        assert self.block.mapped is not None
        self.address = self.block.address
        self._copy = self.block.mapped.reshape(arena.memory.shape)
        self._arena = arena

    def copy_out(self, parity: int, phase: Phase, count: int, element_bytes: int) -> None:
        """After a segment: what this rank has written of a slot's first elements, into the arena."""
        if phase is Phase.SLICES:
            place = (parity, 0, _bytes_of(self._arena.own_slice(count), FLOAT))
        else:
            place = (parity, self._arena.write_slot, slice(count * element_bytes))
        self._arena.memory[place] = self._copy[place]

    def copy_in(self, parity: int, phase: Phase, count: int, element_bytes: int) -> None:
        """After the exchange that ended a phase: what this rank reads next, out of the arena."""
        slots = slice(1 if phase in (Phase.SLICES, Phase.HOSTS) else self._arena.num_partials)
        elements = self._arena.own_slice(count) if phase is Phase.PARTIALS else slice(0, count)
        place = (parity, slots, _bytes_of(elements, element_bytes))
        self._copy[place] = self._arena.memory[place]

    def close(self) -> None:
        pass  # the memory frees it


def _bytes_of(elements: slice, element_bytes: int) -> slice:
    return slice(elements.start * element_bytes, elements.stop * element_bytes)
