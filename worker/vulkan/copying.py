"""Copies bytes inside the device's buffers, between two steps."""

from __future__ import annotations

from collections.abc import Sequence

from tplaunch.worker.device import Copy
from tplaunch.worker.vulkan.api import Handle, ffi, lib, vk
from tplaunch.worker.vulkan.barriers import memory_barrier, put_barrier
from tplaunch.worker.vulkan.context import Context
from tplaunch.worker.vulkan.memory import Memory
from tplaunch.worker.vulkan.staging import Block


def copy_inside(context: Context, memory: Memory, copies: Sequence[Copy]) -> None:
    """Waits for the end: copies are rare, and a step's command buffers are recorded without them."""
    regions: dict[Block, list[tuple[int, int, int]]] = {}
    for name, source, destination, nbytes in copies:
        part = memory[name]
        assert max(source, destination) + nbytes <= part.nbytes, f"{nbytes} bytes inside {name!r}"
        assert part.block is not None, f"{name!r} is empty"
        regions.setdefault(part.block, []).append((part.offset + source, part.offset + destination, nbytes))

    def record(commands: Handle) -> None:
        shaders = vk.VK_ACCESS_SHADER_READ_BIT | vk.VK_ACCESS_SHADER_WRITE_BIT
        transfers = vk.VK_ACCESS_TRANSFER_READ_BIT | vk.VK_ACCESS_TRANSFER_WRITE_BIT
        compute, transfer = vk.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, vk.VK_PIPELINE_STAGE_TRANSFER_BIT
        put_barrier(commands, compute, transfer, memory_barrier(shaders, transfers))
        for block, parts in regions.items():
            of_block = ffi.new("VkBufferCopy[]", parts)
            lib.vkCmdCopyBuffer(commands, block.buffer, block.buffer, len(parts), of_block)
        put_barrier(commands, transfer, compute, memory_barrier(transfers, shaders))

    context.run_once(record)
