"""Page-aligned memory for partial sums, such that a Vulkan device can import it.

VK_EXT_external_memory_host wants the pointer and the size in multiples of
minImportedHostPointerAlignment, which is the page size on every driver seen so far.
"""

import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_PARITIES = 2
SLICE_UNIT = 32  # float32: no two ranks' slices share a cache line
# What devices need that exchange among themselves: a page with the word that ends all waiting, and for each
# parity and rank as many words as an exchange has numbers at most, each a float32 and the exchange's number.
CONTROL_BYTES, WORD_BYTES, WORD_ELEMENTS = 4096, 8, 16384
PAGE_BYTES = max(4096, mmap.PAGESIZE)


@dataclass(frozen=True)
class Backing:
    """The file of memory that ranks share, and where this process has mapped it."""

    descriptor: int  # open as long as the collective
    address: int  # of the file's first byte

    def offset(self, memory: NDArray[np.uint8]) -> int:
        """Returns where a part of the mapping begins in the file."""
        return int(memory.ctypes.data) - self.address


def round_up_to_page(num_bytes: int) -> int:
    return -(-num_bytes // PAGE_BYTES) * PAGE_BYTES


def arena_view(memory: mmap.mmap, offset: int, num_partials: int, slot_bytes: int) -> NDArray[np.uint8]:
    """uint8 [2, num_partials, slot_bytes]. It keeps `memory` mapped for as long as any view of it lives."""
    shape = (NUM_PARITIES, num_partials, slot_bytes)
    return np.frombuffer(memory, np.uint8, NUM_PARITIES * num_partials * slot_bytes, offset).reshape(shape)


def words_bytes(num_ranks: int) -> int:
    """Bytes of the words by which devices exchange among themselves: whole pages."""
    return round_up_to_page(CONTROL_BYTES + NUM_PARITIES * num_ranks * WORD_ELEMENTS * WORD_BYTES)


def rank_slice(rank: int, num_ranks: int, count: int) -> slice:
    """The elements of `count` that a rank sums in a two-phase all-reduce; shaders/sum_slice.slang too."""
    units = -(-count // SLICE_UNIT)
    start, stop = (min(count, units * edge // num_ranks * SLICE_UNIT) for edge in (rank, rank + 1))
    return slice(start, stop)


def private_arena(num_partials: int, slot_bytes: int) -> NDArray[np.uint8]:
    """An arena that no other process sees; zeroed.

    It is private to the process for drivers' sake, too: shared memory has a file behind it even where it has
    no name, and AMD's open driver refuses to import that.
    """
    num_bytes = NUM_PARITIES * num_partials * slot_bytes
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return arena_view(memory, 0, num_partials, slot_bytes)
