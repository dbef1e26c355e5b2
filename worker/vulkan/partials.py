"""The collective's arena as the kernels' buffer "partials": imported, or a copy that is kept in step with it.

An arena is [2, slots, slot bytes]: two parities by turns, each with slots for partial sums. The device writes
one of them, and reads the first `num_partials`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tplaunch.collectives.arena import rank_slice
from tplaunch.worker.buffers.table import Placement
from tplaunch.worker.device import DeviceError
from tplaunch.worker.programs.program import Phase
from tplaunch.worker.vulkan.api import Handle, check, create, ffi, lib, struct, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.memory import Memory, allocate_memory, bind, buffer_info, free
from tplaunch.worker.vulkan.memory_types import import_order
from tplaunch.worker.vulkan.staging import Block

PROBE = 0x7A3C51E9  # what the device writes to see whether an import is the host's memory indeed

Bytes = npt.NDArray[np.uint8]
logger = logging.getLogger(__name__)


def attach(
    context: Context, memory: Memory, arena: Bytes, slots: tuple[int, int], staging: bool
) -> ImportedPartials | StagedPartials:
    """Imports the arena where the driver says it does and trying shows it, and else keeps a copy.

    slots: the one that the device writes, and the number of those that it reads.
    """
    write_slot, num_partials = slots
    if not staging:
        try:
            return ImportedPartials(context, arena, write_slot)
        except DeviceError as error:
            logger.info("%s copies partial sums: %s", context.info.name, error)
    return StagedPartials(memory, arena, write_slot, num_partials)


class ImportedPartials:
    """The arena's own memory. Raises DeviceError where the driver does not import it, or only says so."""

    def __init__(self, context: Context, arena: Bytes, write_slot: int) -> None:
        self._context = context
        self._arena = arena  # stays mapped as long as the device may write to it
        self._block, distance = import_pages(context, arena)
        self.address = self._block.address + distance
        try:
            self._probe(arena[0, write_slot], distance + write_slot * arena.shape[2])
        except DeviceError:
            self.close()
            raise

    def _probe(self, slot: Bytes, offset: int) -> None:
        """Has the device write a word of its own slot, which no other rank reads yet."""
        word = slot[:4].view(np.uint32)
        before = int(word[0])
        filled, seen = vk.VK_ACCESS_TRANSFER_WRITE_BIT, vk.VK_ACCESS_HOST_READ_BIT
        to_host = (
            vk.VK_PIPELINE_STAGE_TRANSFER_BIT,
            vk.VK_PIPELINE_STAGE_HOST_BIT,
            memory_barrier(filled, seen),
        )

        def record(commands: Handle) -> None:
            lib.vkCmdFillBuffer(commands, self._block.buffer, offset, 4, PROBE)
            put_barrier(commands, *to_host)

        self._context.run_once(record)
        arrived = int(word[0]) == PROBE
        word[0] = before
        if not arrived:
            raise DeviceError("the driver imported host memory, but what it writes does not arrive there")

    def close(self) -> None:
        free(self._context, self._block)


class StagedPartials:
    """A mapped buffer laid out like the arena; only the bytes in use are copied."""

    def __init__(self, memory: Memory, arena: Bytes, write_slot: int, num_partials: int) -> None:
        block = memory.allocate(arena.nbytes, Placement.READBACK)
        assert block.mapped is not None
        self.address = block.address
        self._copy = block.mapped.reshape(arena.shape)
        self._arena, self._write_slot, self._num_partials = arena, write_slot, num_partials

    def copy_out(self, parity: int, phase: Phase, nbytes: int) -> None:
        """After a segment: what this rank has written of a slot's first bytes, into the arena."""
        if phase is Phase.SLICES:
            place = (parity, 0, self._own_slice(nbytes))
        else:
            place = (parity, self._write_slot, slice(nbytes))
        self._arena[place] = self._copy[place]

    def copy_in(self, parity: int, phase: Phase, nbytes: int) -> None:
        """After the exchange that ended a phase: what this rank reads next, out of the arena."""
        slots = slice(1 if phase in (Phase.SLICES, Phase.HOSTS) else self._num_partials)
        span = self._own_slice(nbytes) if phase is Phase.PARTIALS else slice(nbytes)
        self._copy[parity, slots, span] = self._arena[parity, slots, span]

    def _own_slice(self, nbytes: int) -> slice:
        """Returns the own rank's bytes of a slot; where there are phases, every rank has a slot."""
        elements = rank_slice(self._write_slot, self._num_partials, nbytes // 4)
        return slice(elements.start * 4, elements.stop * 4)

    def close(self) -> None:
        pass  # the memory frees it


def import_pages(context: Context, memory: Bytes) -> tuple[Block, int]:
    """Imports the whole pages around some of the host's memory, which belong to its mapping.

    Returns them with the offset of that memory. Raises DeviceError where the driver refuses.
    """
    alignment = context.info.import_alignment
    if not alignment:
        raise DeviceError("the driver can't import host memory")
    start = memory.ctypes.data // alignment * alignment
    distance = memory.ctypes.data - start
    nbytes = -(-(distance + memory.nbytes) // alignment) * alignment
    if nbytes > context.info.max_allocation:
        limit = context.info.max_allocation
        raise DeviceError(f"the arena has {nbytes} bytes, the largest import {limit}")
    return import_host_memory(context, start, nbytes), distance


def import_host_memory(context: Context, pointer: int, nbytes: int) -> Block:
    """VK_EXT_external_memory_host. Raises DeviceError where the driver refuses."""
    kind = vk.VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT
    host_pointer = ffi.cast("void *", pointer)
    allowed = struct("VkMemoryHostPointerPropertiesEXT")
    query = context.function("vkGetMemoryHostPointerPropertiesEXT")
    check(query(context.device, kind, host_pointer, allowed), "vkGetMemoryHostPointerPropertiesEXT")
    external = struct("VkExternalMemoryBufferCreateInfo", handleTypes=kind)
    buffer = create("vkCreateBuffer", "VkBuffer", context.device, buffer_info(nbytes, external))
    memory: Handle = None
    try:
        requirements = ffi.new("VkMemoryRequirements *")
        lib.vkGetBufferMemoryRequirements(context.device, buffer, requirements)
        type_bits = allowed.memoryTypeBits & requirements.memoryTypeBits
        if not type_bits or requirements.size > nbytes:
            raise DeviceError("no memory type fits the host's memory")
        source = struct("VkImportMemoryHostPointerInfoEXT", handleType=kind, pHostPointer=host_pointer)
        memory = _allocated(context, nbytes, import_order(context.memory_types(), type_bits), source)
        return bind(context, buffer, memory, nbytes, host_visible=False)
    except DeviceError:
        lib.vkDestroyBuffer(context.device, buffer, ffi.NULL)
        if memory is not None:
            lib.vkFreeMemory(context.device, memory, ffi.NULL)
        raise


def _allocated(context: Context, nbytes: int, order: Sequence[int], source: Handle) -> Handle:
    """Imports by the first type that the driver takes. Raises DeviceError, the first, where it takes none."""
    refusals = []
    for type_index in order:
        try:
            return allocate_memory(context, nbytes, type_index, source)
        except DeviceError as error:
            refusals.append(error)
    raise refusals[0]
