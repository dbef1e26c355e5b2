"""Activations in eight bits: 32 columns with one scale, as worker/ops/quantized.py describes them."""

from __future__ import annotations

from numba import float32

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.cpu.kernels.quants import store_as_bytes
from tplaunch.worker.cpu.kernels.spans import own_share
from tplaunch.worker.cpu.kernels.vectors import (
    larger,
    largest,
    load,
    magnitude,
    nearest,
    put,
    spread,
    times,
    unsigned,
)
from tplaunch.worker.ops.quantized import SMALLEST

MOST = float32(127)  # of eight bits with a sign
LEAST = float32(SMALLEST)


def quantize(
    x: int,
    x_stride: int,
    y: int,
    y_stride: int,
    columns: int,
    num_rows: int,
    per_row: int,
    thread: int,
    num_threads: int,
) -> None:
    """Rounds rows; `num_rows` is the address of the number of the step's rows, each of which is `per_row`."""
    tiles = columns // COLUMN_TILE
    count = unsigned(num_rows) * per_row * tiles
    begin, stop = own_share(count, thread, num_threads)
    for index in range(begin, stop):
        row, tile = index // tiles, index % tiles
        source, output = x + row * x_stride + 128 * tile, y + row * y_stride
        first, second = load(source), load(source + 64)
        most = largest(larger(magnitude(first), magnitude(second)))
        inverse, scale = float32(0), float32(0)
        if not most < LEAST:
            inverse, scale = MOST / most, most / MOST
        store_as_bytes(output + 32 * tile, nearest(times(first, spread(inverse))))
        store_as_bytes(output + 32 * tile + 16, nearest(times(second, spread(inverse))))
        put(output + columns + 4 * tile, scale)
