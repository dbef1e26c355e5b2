"""Each head's own matrix times its part of a row."""

from __future__ import annotations

from collections.abc import Callable

from tplaunch.worker.cpu.kernels.matrices import products_of
from tplaunch.worker.cpu.kernels.spans import own_groups
from tplaunch.worker.cpu.kernels.tiles import GROUP
from tplaunch.worker.cpu.kernels.vectors import number, put, unsigned


def multiply(weight_type: str) -> Callable[..., None]:
    """Makes the kernel of a weight type; all matrices have `columns` columns, and `length` rows a head.

    x and y are where the first head's parts begin, and `x_part` and `y_part` the bytes from one to the next.
    Parts that end beyond the `x_bytes` from x to the end of a row, where weights are zero, are copied to
    `copies`, which each thread has `copies_bytes` bytes of.
    """
    of_rows = products_of(weight_type)

    def kernel(
        p0: int,
        p1: int,
        p2: int,
        p3: int,
        x: int,
        x_stride: int,
        x_part: int,
        x_bytes: int,
        y: int,
        y_stride: int,
        y_part: int,
        num_rows: int,
        num_heads: int,
        length: int,
        columns: int,
        tiles: int,
        scratch: int,
        scratch_bytes: int,
        widened_rows: int,
        copies: int,
        copies_bytes: int,
        thread: int,
        num_threads: int,
    ) -> None:
        rows = unsigned(num_rows)
        first, stop = own_groups(num_heads * length, GROUP, thread, num_threads)
        own, own_copy = scratch + thread * scratch_bytes, copies + thread * copies_bytes
        start = first
        while start < stop:
            head = start // length
            end = min(stop, (head + 1) * length)
            source, stride = x + head * x_part, x_stride
            left = (x_bytes - head * x_part) // 4
            if left < columns:
                for row in range(rows):
                    for column in range(columns):
                        value = number(source + row * x_stride + 4 * column) if column < left else 0.0
                        put(own_copy + 4 * (row * columns + column), value)
                source, stride = own_copy, 4 * columns
            out = y + head * y_part + 4 * (start - head * length)
            of_rows(
                p0,
                p1,
                p2,
                p3,
                tiles,
                start,
                end,
                source,
                stride,
                0,
                out,
                y_stride,
                0,
                rows,
                own,
                widened_rows,
            )
            start = end

    return kernel
