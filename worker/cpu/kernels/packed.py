"""Packs 16 rows of a matrix for products of integers, as integer_layout.py describes it."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.cpu.integer_layout import (
    FORMS,
    PART_BYTES,
    PARTS,
    ROWS,
    SCALES_BYTES,
    STAGED_SCALES,
    VECTOR,
)
from tplaunch.worker.cpu.kernels.dots import transpose_8_of_16
from tplaunch.worker.cpu.kernels.formats import WEIGHTS
from tplaunch.worker.cpu.kernels.integers import WRITE
from tplaunch.worker.cpu.kernels.prefetching import prefetching
from tplaunch.worker.cpu.options import OPTIONS
from tplaunch.worker.formats import FORMATS

inlined = njit(**OPTIONS)


def packing(weight_type: str) -> tuple[Any, Any]:
    """Makes what packs rows of a type from `first` to `first + last`, with `length` tiles each.

    The first function packs up to eight parts from `start` on to places for these alone, the second one all.
    """
    write, prepare = WRITE[weight_type], WEIGHTS[weight_type].prepare
    per_tile = FORMATS[weight_type].tile_columns // COLUMN_TILE
    vectors = FORMS[weight_type].vectors
    near = min(vectors, 2) * VECTOR  # of a part's scales, without offsets that are behind all
    prefetch_one = prefetching(weight_type, 1)

    @inlined
    def pack_eight(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        first: int,
        last: int,
        length: int,
        start: int,
        packed: int,
        scales: int,
        offsets: int,
        stage: int,
    ) -> None:
        tile, count = first * length + start // per_tile, min(PARTS, length * per_tile - start)
        following = first * length + ROWS * (start // per_tile)
        for row in range(last + 1):
            prefetch_one(p0, p1, p2, p3, following + row * (PARTS // per_tile))
            prepare(p0, p1, p2, p3, tile + row * length, count, stage + SCALES_BYTES * row)
        for each in range(vectors):
            at = (scales if each < 2 else offsets) + PARTS * VECTOR * (each % 2)
            transpose_8_of_16(stage + 32 * each, SCALES_BYTES, last, at)
        write(p0, p1, p2, p3, tile, length, last, count, packed, stage + STAGED_SCALES)

    @inlined
    def pack(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        first: int,
        last: int,
        length: int,
        packed: int,
        stage: int,
    ) -> None:
        whole = (length * per_tile + PARTS - 1) // PARTS * PARTS
        scales = packed + PART_BYTES * whole
        for start in range(0, whole, PARTS):
            at, own = packed + PART_BYTES * start, scales + near * start
            pack_eight(p0, p1, p2, p3, first, last, length, start, at, own, own + near * whole, stage)

    return pack_eight, pack
