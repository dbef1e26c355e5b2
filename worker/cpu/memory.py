"""Memory for kernels, which begins where a line of the processor's cache does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tplaunch.worker.process import advise_huge_pages

LINE = 128  # bytes that a processor may fetch together
Bytes = npt.NDArray[np.uint8]


def in_lines(nbytes: int) -> int:
    """Returns the bytes of as many lines as are needed for so many."""
    return -(-nbytes // LINE) * LINE


def lines(nbytes: int) -> Bytes:
    """Returns zeros from the begin of a line on."""
    memory = np.zeros(nbytes + LINE, np.uint8)
    start = -int(memory.ctypes.data) % LINE
    return memory[start : start + nbytes]


def in_one_piece(sizes: Mapping[str, int]) -> dict[str, Bytes]:
    """Returns buffers of so many bytes that lie one behind another, in large pages where there are any.

    Each alone may be too small for these; all pages of 4 KiB of a model are more than a processor keeps
    the addresses of, and it brings none nearer before it knows them.
    """
    memory = lines(sum(map(in_lines, sizes.values())))
    advise_huge_pages(memory)
    found, at = dict[str, Bytes](), 0
    for name, nbytes in sizes.items():
        found[name] = memory[at : at + nbytes]
        at += in_lines(nbytes)
    return found
