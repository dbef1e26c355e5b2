"""Named buffers on a Vulkan device: cut out of few large allocations, written by the host.

A kernel finds a buffer by its address alone, so a whole allocation is one VkBuffer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.device import DeviceError, FillPlaces, Place
from tplaunch.worker.process import advise_huge_pages
from tplaunch.worker.vulkan.api import WHOLE_SIZE, Handle, call, create, ffi, lib, struct, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.external_memory import buffer_usage
from tplaunch.worker.vulkan.memory_types import memory_type_order
from tplaunch.worker.vulkan.staging import STAGING_BYTES, Block, Staging

ALIGNMENT = 256  # bytes; suits every device
MAX_BLOCK = 1 << 30  # bytes: a driver finds room for several blocks sooner than for a huge one
DEVICE_ADDRESS_ALLOCATION = 0x2  # VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Slice:
    """A named buffer's place in a block. Without bytes it has no block, and an address that no one reads."""

    nbytes: int
    row_length: int
    block: Block | None = None
    offset: int = 0

    @property
    def address(self) -> int:
        return self.block.address + self.offset if self.block else 0

    @property
    def mapped(self) -> Bytes | None:
        """The memory, where the host can see it."""
        if self.block is None:
            return np.zeros(0, np.uint8)
        mapped = self.block.mapped
        return None if mapped is None else mapped[self.offset : self.offset + self.nbytes]


class Memory:
    """All allocations of a device. With `unmapped`, the device's own are treated as a discrete GPU's."""

    def __init__(self, context: Context, unmapped: bool) -> None:
        self._context = context
        self._unmapped = unmapped
        self._blocks: list[Block] = []
        self._own_bytes = 0  # of the device's own memory
        self._slices: dict[str, Slice] = {}
        self._staging = Staging(context, lambda: self.allocate(STAGING_BYTES, Placement.UPLOAD))

    def __getitem__(self, name: str) -> Slice:
        return self._slices[name]

    def create(self, buffers: Mapping[str, Buffer]) -> None:
        """Raises DeviceError for a buffer that is too large and where memory is short."""
        self._check_sizes(buffers)
        for placement in Placement:
            chosen = {name: buffer for name, buffer in buffers.items() if buffer.placement is placement}
            for group in self._grouped(chosen):
                self._create_group(group, placement)

    def _check_sizes(self, buffers: Mapping[str, Buffer]) -> None:
        limit = self._context.info.max_allocation
        for name, buffer in buffers.items():
            if buffer.nbytes > limit:
                raise DeviceError(
                    f"the buffer {name!r} has {buffer.nbytes} bytes; {self._context.info.name} allocates"
                    f" at most {limit} at once"
                )

    def _grouped(self, buffers: Mapping[str, Buffer]) -> Iterable[dict[str, Buffer]]:
        """Buffers in their order, as many as go into one block."""
        limit = min(MAX_BLOCK, self._context.info.max_allocation)
        group: dict[str, Buffer] = {}
        total = 0
        for name, buffer in buffers.items():
            if group and total + aligned(buffer.nbytes) > limit:
                yield group
                group, total = {}, 0
            group[name] = buffer
            total += aligned(buffer.nbytes)
        if group:
            yield group

    def _create_group(self, group: dict[str, Buffer], placement: Placement) -> None:
        total = sum(aligned(buffer.nbytes) for buffer in group.values())
        block = self.allocate(total, placement) if total else None
        offset = 0
        for name, buffer in group.items():
            assert name not in self._slices, f"the buffer {name!r} is there already"
            holder = block if buffer.nbytes else None
            self._slices[name] = Slice(buffer.nbytes, buffer.row_length, holder, offset if holder else 0)
            offset += aligned(buffer.nbytes)

    def allocate(self, nbytes: int, placement: Placement) -> Block:
        """A block of its own, zero-filled unless for weights. Raises DeviceError where memory is short."""
        buffer = create("vkCreateBuffer", "VkBuffer", self._context.device, buffer_info(nbytes))
        requirements = ffi.new("VkMemoryRequirements *")
        lib.vkGetBufferMemoryRequirements(self._context.device, buffer, requirements)
        try:
            memory, host_visible = self._allocate_from(requirements, placement)
        except DeviceError as error:
            lib.vkDestroyBuffer(self._context.device, buffer, ffi.NULL)
            held = sum(block.nbytes for block in self._blocks)
            raise DeviceError(
                f"{self._context.info.name} has no room for {nbytes} more bytes beside the {held} bytes"
                f" that it holds for this rank: {error}"
            ) from None
        block = bind(self._context, buffer, memory, nbytes, host_visible)
        self._blocks.append(block)
        self._own_bytes += nbytes * (placement in (Placement.WEIGHTS, Placement.DEVICE))
        if block.mapped is not None and self._context.info.type == "cpu":
            advise_huge_pages(block.mapped)
        if placement is not Placement.WEIGHTS:  # which may be gigabytes, and are written anyway
            self._fill_with_zeros(block)
        return block

    def _allocate_from(self, requirements: Handle, placement: Placement) -> tuple[Handle, bool]:
        """Returns memory of the first type that has room, and whether the host maps it."""
        allowed = {
            index: kind
            for index, kind in enumerate(self._context.memory_types())
            if requirements.memoryTypeBits >> index & 1
        }
        refusal = DeviceError("none of its memory suits the buffer")
        for index, host_visible in memory_type_order(allowed, placement, self._unmapped):
            try:
                return allocate_memory(self._context, requirements.size, index), host_visible
            except DeviceError as error:
                refusal = error
        raise refusal

    def _fill_with_zeros(self, block: Block) -> None:
        """On a card by the card itself: gigabytes of a KV cache would cross the bus, mapped or not."""
        if block.mapped is not None and self._context.info.type == "cpu":
            block.mapped[:] = 0
            return
        transfer, host = vk.VK_PIPELINE_STAGE_TRANSFER_BIT, vk.VK_PIPELINE_STAGE_HOST_BIT
        seen = vk.VK_ACCESS_HOST_READ_BIT | vk.VK_ACCESS_HOST_WRITE_BIT

        def record(commands: Handle) -> None:
            lib.vkCmdFillBuffer(commands, block.buffer, 0, WHOLE_SIZE, 0)
            put_barrier(commands, transfer, host, memory_barrier(vk.VK_ACCESS_TRANSFER_WRITE_BIT, seen))

        self._context.run_once(record)

    def write(self, name: str, offset: int, data: Bytes) -> None:
        """Copies bytes in."""
        for start in range(0, data.size, STAGING_BYTES):
            part = data[start : start + STAGING_BYTES]
            self.fill(name, [(offset + start, part.size)], functools.partial(_copy, part))

    def fill(self, name: str, places: Sequence[Place], write: FillPlaces) -> None:
        """Has `write` write the bytes, into staging memory where the host can't see the buffer."""
        target = self._slices[name]
        mapped = target.mapped
        for offset, nbytes in places:
            assert offset + nbytes <= target.nbytes, f"{nbytes} bytes at {offset} of {name!r}"
        if mapped is not None:
            write([mapped[offset : offset + nbytes] for offset, nbytes in places])
            return
        assert target.block is not None
        self._staging.fill(
            target.block, [(target.offset + offset, nbytes) for offset, nbytes in places], write
        )

    def eviction_note(self) -> str:
        """Says so where the driver grants less memory now than lies in it; nothing where all is well."""
        if self._context.info.type == "cpu":  # its memory is the machine's, which others look after
            return ""
        return eviction_note(self._context.info.name, self._own_bytes, self._context.available_bytes())

    def release(self, block: Block) -> None:
        """Frees a block that holds no named buffer."""
        self._blocks.remove(block)
        free(self._context, block)

    def free_staging(self) -> None:
        """Frees the staging memory when loading is over: no step needs it."""
        for block in self._staging.give_back():
            self.release(block)

    def close(self) -> None:
        """Frees everything; views of it must not be used any more."""
        for block in self._blocks:
            free(self._context, block)
        self._blocks.clear()
        self._slices.clear()
        self._staging.give_back()


def _copy(data: Bytes, places: Sequence[Bytes]) -> None:
    places[0][:] = data


def eviction_note(name: str, held: int, granted: int) -> str:
    """Returns a sentence for a device that holds more bytes than its driver grants."""
    if held <= granted:
        return ""
    return (
        f"{name} holds {held / 2**30:.1f} GiB, but its driver now grants {granted / 2**30:.1f} GiB of its own"
        " memory: it may move the rest to the host's, which is slow; end what else uses the device, or give"
        " it less by --max-memory"
    )


def aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def buffer_info(nbytes: int, extension: Handle = None) -> Handle:
    return struct("VkBufferCreateInfo", pNext=extension or ffi.NULL, size=nbytes, usage=buffer_usage())


def allocate_memory(context: Context, nbytes: int, type_index: int, extension: Handle = None) -> Handle:
    """Memory whose addresses kernels may use."""
    flags = struct("VkMemoryAllocateFlagsInfo", pNext=extension or ffi.NULL, flags=DEVICE_ADDRESS_ALLOCATION)
    info = struct("VkMemoryAllocateInfo", pNext=flags, allocationSize=nbytes, memoryTypeIndex=type_index)
    return create("vkAllocateMemory", "VkDeviceMemory", context.device, info)


def bind(context: Context, buffer: Handle, memory: Handle, nbytes: int, host_visible: bool) -> Block:
    """Puts a buffer into its memory, and maps that for the host."""
    call("vkBindBufferMemory", context.device, buffer, memory, 0)
    address = lib.vkGetBufferDeviceAddress(context.device, struct("VkBufferDeviceAddressInfo", buffer=buffer))
    mapped = _map(context, memory, nbytes) if host_visible else None
    return Block(memory, buffer, int(address), nbytes, mapped)


def _map(context: Context, memory: Handle, nbytes: int) -> Bytes:
    pointer = ffi.new("void **")
    call("vkMapMemory", context.device, memory, 0, WHOLE_SIZE, 0, pointer)
    mapped: Any = ffi.buffer(pointer[0], nbytes)
    return np.frombuffer(mapped, np.uint8)


def free(context: Context, block: Block) -> None:
    """A block's buffer and memory; mapped memory is unmapped by that."""
    lib.vkDestroyBuffer(context.device, block.buffer, ffi.NULL)
    lib.vkFreeMemory(context.device, block.memory, ffi.NULL)
