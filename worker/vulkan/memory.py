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
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.listing import buffer_usage
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
        index, host_visible = self._choose_type(requirements.memoryTypeBits, placement)
        try:
            memory = allocate_memory(self._context, requirements.size, index)
        except DeviceError as error:
            lib.vkDestroyBuffer(self._context.device, buffer, ffi.NULL)
            held = sum(block.nbytes for block in self._blocks)
            raise DeviceError(
                f"{self._context.info.name} has no room for {nbytes} more bytes beside the {held} bytes"
                f" that it holds for this rank: {error}"
            ) from None
        block = bind(self._context, buffer, memory, nbytes, host_visible)
        self._blocks.append(block)
        if block.mapped is not None and self._context.info.type == "cpu":
            advise_huge_pages(block.mapped)
        if placement is not Placement.WEIGHTS:  # which may be gigabytes, and are written anyway
            self._fill_with_zeros(block)
        return block

    def _choose_type(self, allowed: int, placement: Placement) -> tuple[int, bool]:
        """Index of a memory type, and whether it gets mapped."""
        types = {i: t for i, t in enumerate(self._context.memory_types()) if allowed >> i & 1}
        local, cached = vk.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, vk.VK_MEMORY_PROPERTY_HOST_CACHED_BIT
        mappable = vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
        if placement in (Placement.WEIGHTS, Placement.DEVICE):
            # The largest heap: a small window into device memory is mappable, but holds no model.
            largest = max((size for flags, _, size in types.values() if flags & local), default=0)
            large = [i for i, (flags, _, size) in types.items() if flags & local and size == largest]
            in_view = [i for i in large if types[i][0] & mappable == mappable]
            if in_view and not self._unmapped:
                return in_view[0], True
            return (large or list(types))[0], False
        wanted = mappable | (local if placement is Placement.UPLOAD else cached)
        for flags_needed in (wanted, mappable):
            for index, (flags, _, _) in types.items():
                if flags & flags_needed == flags_needed:
                    return index, True
        raise DeviceError(f"{self._context.info.name} has no memory that the host can map")

    def _fill_with_zeros(self, block: Block) -> None:
        if block.mapped is not None:
            block.mapped[:] = 0
        else:
            fill = lib.vkCmdFillBuffer
            self._context.run_once(lambda commands: fill(commands, block.buffer, 0, WHOLE_SIZE, 0))

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
