"""Rows times transposed matrices of any weight type."""

from __future__ import annotations

from collections.abc import Callable

from tplaunch.worker.cpu.integer_layout import ROWS
from tplaunch.worker.cpu.kernels.integer_products import integer_products_of
from tplaunch.worker.cpu.kernels.matrices import products_of
from tplaunch.worker.cpu.kernels.spans import own_groups
from tplaunch.worker.cpu.kernels.tiles import GROUP
from tplaunch.worker.cpu.kernels.vectors import unsigned


def multiply(weight_type: str) -> Callable[..., None]:
    """Makes the kernel of a weight type: output[row] = input[row] x matrix^T.

    p0 to p3 are the addresses of the matrix's planes; strides are in bytes, and `num_rows` is the address of
    the number of rows. A thread has `scratch_bytes` of scratch, with room for `widened_rows` of the matrix.
    """
    of_rows = products_of(weight_type)

    def kernel(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        x: int,
        x_stride: int,
        y: int,
        y_stride: int,
        num_rows: int,
        matrix_rows: int,
        tiles: int,
        scratch: int,
        scratch_bytes: int,
        widened_rows: int,
        thread: int,
        num_threads: int,
    ) -> None:
        rows = unsigned(num_rows)
        first, stop = own_groups(matrix_rows, GROUP, thread, num_threads)
        own, out = scratch + thread * scratch_bytes, y + 4 * first
        of_rows(p0, p1, p2, p3, tiles, first, stop, x, x_stride, 0, out, y_stride, 0, rows, own, widened_rows)

    return kernel


def multiply_integers(weight_type: str) -> Callable[..., None]:
    """Makes the kernel of a weight type with an integer form, for rows that `arrange` has arranged.

    A thread has `scratch_bytes` of scratch, with room for `packed_groups` times 16 rows of the matrix.
    """
    of_rows = integer_products_of(weight_type)

    def kernel(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        x: int,
        y: int,
        y_stride: int,
        num_rows: int,
        matrix_rows: int,
        tiles: int,
        scratch: int,
        scratch_bytes: int,
        packed_groups: int,
        thread: int,
        num_threads: int,
    ) -> None:
        rows, own = unsigned(num_rows), scratch + thread * scratch_bytes
        first, stop = own_groups(matrix_rows, ROWS, thread, num_threads)
        of_rows(p0, p1, p2, p3, tiles, first, stop, x, y + 4 * first, y_stride, 0, rows, own, packed_groups)

    return kernel
