"""Has weights brought closer before they are read."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.cpu.integer_layout import PARTS
from tplaunch.worker.cpu.kernels.vectors import prefetch
from tplaunch.worker.cpu.options import OPTIONS
from tplaunch.worker.formats import FORMATS

inlined = njit(**OPTIONS)
NUM_PLANES = 4  # that kernels take addresses of
LINE = 64  # bytes of a cache
AHEAD_BYTES = 16 << 10  # of weights


def prefetching(weight_type: str, rows: int) -> Any:
    """Makes what prefetches as many tiles as eight parts of so many rows are.

    It takes the number of a tile which is that far from the start of these rows. In the order of memory rows
    come faster than several of them by turns.
    """
    weight_format = FORMATS[weight_type]
    together = rows * PARTS * COLUMN_TILE // weight_format.tile_columns
    nbytes = [0] * (weight_format.codebook_bytes > 0) + list(weight_format.plane_bytes) + [0] * NUM_PLANES
    b0, b1, b2, b3 = nbytes[:NUM_PLANES]
    ahead = AHEAD_BYTES // sum(weight_format.plane_bytes)  # tiles

    @inlined
    def ahead_of(p0: int, p1: int, p2: int, p3: int, tile: int) -> None:
        tile += ahead
        _prefetch_all(p0 + b0 * tile, b0 * together)
        _prefetch_all(p1 + b1 * tile, b1 * together)
        _prefetch_all(p2 + b2 * tile, b2 * together)
        _prefetch_all(p3 + b3 * tile, b3 * together)

    return ahead_of


@inlined
def _prefetch_all(address: int, nbytes: int) -> None:
    for line in range(0, nbytes, LINE):
        prefetch(address + line)
