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


def packing(weight_type: str) -> Any:
    """Makes what packs rows of a type from `first` to `first + last`, with `length` tiles each."""
    write, prepare = WRITE[weight_type], WEIGHTS[weight_type].prepare
    per_tile = FORMATS[weight_type].tile_columns // COLUMN_TILE
    vectors = FORMS[weight_type].vectors
    near = min(vectors, 2) * VECTOR  # of a part's scales, without offsets that are behind all

    prefetch_one = prefetching(weight_type, 1)

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
        parts = length * per_tile
        whole = (parts + PARTS - 1) // PARTS * PARTS
        scales = packed + PART_BYTES * whole
        for start in range(0, parts, PARTS):
            tile, count = first * length + start // per_tile, min(PARTS, parts - start)
            following = first * length + ROWS * (start // per_tile)
            for row in range(last + 1):
                prefetch_one(p0, p1, p2, p3, following + row * (PARTS // per_tile))
                prepare(p0, p1, p2, p3, tile + row * length, count, stage + SCALES_BYTES * row)
            at = scales + near * start
            for each in range(vectors):
                if each == 2:
                    at = scales + near * (whole + start)
                transpose_8_of_16(stage + 32 * each, SCALES_BYTES, last, at)
                at += PARTS * VECTOR
            at = packed + PART_BYTES * start
            write(p0, p1, p2, p3, tile, length, last, count, at, stage + STAGED_SCALES)

    return pack
