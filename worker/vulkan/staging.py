"""Brings bytes to device memory that the host can't see, by way of memory that it can."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tplaunch.worker.device import FillPlaces, Place
from tplaunch.worker.vulkan.api import Handle, ffi, lib
from tplaunch.worker.vulkan.context import Context

STAGING_BYTES = 8 << 20  # of one thread

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Block:
    """One allocation with one VkBuffer over all of it; `mapped` is its memory where the host can see that."""

    memory: Handle
    buffer: Handle
    address: int
    nbytes: int
    mapped: Bytes | None


class Staging:
    """Staging memory for as many threads as fill at once; the queue is used by one at a time."""

    def __init__(self, context: Context, allocate: Callable[[], Block]) -> None:
        self._context, self._allocate = context, allocate
        self._lock = threading.Lock()
        self._idle: list[Block] = []

    def fill(self, target: Block, places: Sequence[Place], write: FillPlaces) -> None:
        """Has `write` write the bytes of some places of `target`, STAGING_BYTES together at most.

        While one thread's bytes are on their way, others write theirs.
        """
        with self._lock:
            staging = self._idle.pop() if self._idle else self._allocate()
        ends = list(itertools.accumulate(nbytes for _, nbytes in places))
        assert staging.mapped is not None and ends[-1] <= STAGING_BYTES, f"{ends[-1]} bytes at once"
        write([staging.mapped[end - nbytes : end] for end, (_, nbytes) in zip(ends, places, strict=True)])
        self._copy(
            staging, target, [(end - place[1], *place) for end, place in zip(ends, places, strict=True)]
        )

    def _copy(self, staging: Block, target: Block, parts: Sequence[tuple[int, int, int]]) -> None:
        """parts: where a part begins in staging and in the target, and its length."""
        regions: Handle = ffi.new("VkBufferCopy[]", list(parts))
        with self._lock:
            self._context.run_once(
                lambda commands: lib.vkCmdCopyBuffer(
                    commands, staging.buffer, target.buffer, len(parts), regions
                )
            )
            self._idle.append(staging)

    def give_back(self) -> list[Block]:
        """The memory, for the allocator to free; what is filled later gets new one."""
        with self._lock:
            blocks, self._idle = self._idle, []
        return blocks
