"""Memory barriers between the commands of a command buffer."""

from __future__ import annotations

from tplaunch.worker.vulkan.api import Handle, ffi, lib, struct


def memory_barrier(source: int, destination: int) -> Handle:
    """Makes what was written by accesses of the source visible to those of the destination."""
    return struct("VkMemoryBarrier", srcAccessMask=source, dstAccessMask=destination)


def put_barrier(commands: Handle, before: int, after: int, barrier: Handle) -> None:
    """Has commands in the stages `after` wait for earlier ones in the stages `before`."""
    lib.vkCmdPipelineBarrier(commands, before, after, 0, 1, barrier, 0, ffi.NULL, 0, ffi.NULL)
