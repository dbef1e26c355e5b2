"""Causal convolutions of channels over the rows of sequences."""

from __future__ import annotations

from typing import Any

from numba import njit

from tplaunch.worker.buffers.step import NO_SLOT
from tplaunch.worker.cpu.kernels.activations import silu
from tplaunch.worker.cpu.kernels.building import LANES
from tplaunch.worker.cpu.kernels.edges import load_apart, load_part, store_part
from tplaunch.worker.cpu.kernels.spans import own_share
from tplaunch.worker.cpu.kernels.vectors import (
    load,
    plus,
    store,
    times,
    unsigned,
    zeros,
)
from tplaunch.worker.cpu.options import OPTIONS

inlined = njit(**OPTIONS)
VECTOR = 4 * LANES  # bytes


def convolve(
    projected: int,
    projected_stride: int,
    weight: int,
    weight_stride: int,
    bias: int,
    state: int,
    output: int,
    output_stride: int,
    channels: int,
    kernel: int,
    gated: int,
    scratch: int,
    scratch_bytes: int,
    num_runs: int,
    run_starts: int,
    read_slots: int,
    write_slots: int,
    thread: int,
    num_threads: int,
) -> None:
    """output = the convolution that worker/ops/recurrent.py describes; the last inputs go to the state.

    A thread's scratch has room for a vector of weights of each row that the kernel sees. Threads share
    channels.
    """
    vectors = (channels + LANES - 1) // LANES
    taps, row_bytes = scratch + thread * scratch_bytes, 4 * channels
    slot_bytes = row_bytes * (kernel - 1)
    own, end = own_share(vectors, thread, num_threads)
    for vector in range(own, end):
        at, left = VECTOR * vector, channels - LANES * vector
        for tap in range(kernel):
            weights = weight + LANES * vector * weight_stride + 4 * tap
            store(taps + VECTOR * tap, load_apart(weights, weight_stride, left))
        for run in range(unsigned(num_runs)):
            first, stop = unsigned(run_starts + 4 * run), unsigned(run_starts + 4 * run + 4)
            source = unsigned(read_slots + 4 * run)
            before = 0 if source == NO_SLOT else state + source * slot_bytes + at
            rows = projected + first * projected_stride + at
            for row in range(stop - first):
                sums = zeros()
                for tap in range(kernel):
                    found = _input(
                        before, row_bytes, rows, projected_stride, gated, kernel - 1, row + tap, left
                    )
                    product = times(found, load(taps + VECTOR * tap))
                    sums = product if tap == 0 else plus(sums, product)
                if gated:
                    behind = load_part(rows + row * projected_stride + row_bytes, left)
                    sums = times(behind, sums)
                else:
                    sums = silu(sums if bias == 0 else plus(sums, load_part(bias + at, left)))
                store_part(output + (first + row) * output_stride + at, sums, left)
            kept = state + unsigned(write_slots + 4 * run) * slot_bytes + at
            for row in range(kernel - 1):  # what is read lies behind what is written, or elsewhere
                found = _input(
                    before, row_bytes, rows, projected_stride, gated, kernel - 1, stop - first + row, left
                )
                store_part(kept + row * row_bytes, found, left)


@inlined
def _input(
    before: int, row_bytes: int, rows: int, stride: int, gated: int, num_before: int, row: int, left: int
) -> Any:
    """Returns an input of a run by its number, the first of which lie before the run: zeros or in a state."""
    if row < num_before:
        return zeros() if before == 0 else load_part(before + row * row_bytes, left)
    place = rows + (row - num_before) * stride
    found = load_part(place, left)
    return times(found, load_part(place + 2 * row_bytes, left)) if gated else found
