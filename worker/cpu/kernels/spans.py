"""Work in shares, and rows that are copied."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.cpu.kernels.edges import load_part, store_part
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)


@inlined
def copy(source: int, target: int, count: int) -> None:
    """Copies float32."""
    for index in range(0, count, 16):
        left = count - index
        store_part(target + 4 * index, load_part(source + 4 * index, left), left)


@inlined
def own_share(count: int, thread: int, num_threads: int) -> Any:
    """Returns the first of so many pieces of work that a thread does, and the one behind its last."""
    return count * thread // num_threads, count * (thread + 1) // num_threads


@inlined
def own_groups(count: int, group: int, thread: int, num_threads: int) -> Any:
    """Returns the same of rows of which so many neighbours go together, a last group of fewer among them."""
    first, stop = own_share((count + group - 1) // group, thread, num_threads)
    return min(count, group * first), min(count, group * stop)
