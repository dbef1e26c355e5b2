"""Records products with weight matrices."""

from __future__ import annotations

from functools import partial

import numpy as np

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.cpu.integer_layout import ARRANGED_BYTES, FORMS, ROWS, STAGE_BYTES, TOGETHER
from tplaunch.worker.cpu.recorder import Recorder
from tplaunch.worker.cpu.rows import finish
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.numpy.rows import quantize as numpy_quantize
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops import quantized
from tplaunch.worker.ops.common import MatMul, Quantize
from tplaunch.worker.ops.matrix import Matrix

WIDENED_ROWS, LEAST_WIDENED_ROWS = 16, 4  # of a matrix, which a thread widens at once
SCALES_BYTES = 512  # of rows that are multiplied at once, before the widened ones
WIDENED_BYTES = 256 << 10  # that these are, if they can: they stay in a core's cache
PACKED_BYTES = 256 << 10  # and so do rows that are packed for products of integers


def matmul(op: MatMul, recorder: Recorder) -> None:
    matrix = op.matrix
    output, stride = _output(op, recorder)
    is_apart = op.gated or op.accumulates  # what comes of the products goes elsewhere
    products = recorder.scratch("products", 4 * recorder.most_rows(op.rows) * matrix.rows if is_apart else 0)
    if is_apart:
        output, stride = int(products.ctypes.data), 4 * matrix.rows
    if op.activations == "q8":
        _multiply_integers(op, recorder, output, stride)
    else:
        _multiply(op, recorder, output, stride)
    changed = (op.product_scales, op.bias, op.activation, op.softcap or None)
    if is_apart or op.scale != 1 or any(change is not None for change in changed):
        _finish(op, recorder, output, stride)


def _multiply(op: MatMul, recorder: Recorder, output: int, stride: int) -> None:
    matrix = op.matrix
    rows, rows_stride = _input(op, recorder)
    recorder.kernel(
        f"products.multiply@{matrix.type}",
        **recorder.planes(matrix),
        x=rows,
        x_stride=rows_stride,
        y=output,
        y_stride=stride,
        num_rows=recorder.num_rows(op.rows),
        matrix_rows=matrix.rows,
        tiles=matrix.columns // FORMATS[matrix.type].tile_columns,
        **own_scratch(matrix, recorder),
    )


def _multiply_integers(op: MatMul, recorder: Recorder, output: int, stride: int) -> None:
    matrix, held = op.matrix, FORMS[op.matrix.type]
    groups = -(-recorder.most_rows(op.rows) // TOGETHER)
    arranged = recorder.scratch("arranged", groups * matrix.columns // COLUMN_TILE * ARRANGED_BYTES)
    rows, num_rows = int(arranged.ctypes.data), recorder.num_rows(op.rows)
    most_groups = PACKED_BYTES // max(1, held.packed_bytes(matrix.columns))
    packed_groups = max(1, min(most_groups, -(-matrix.rows // ROWS)))
    recorder.kernel(
        "arranged.arrange",
        x=recorder.address(op.input),
        x_stride=recorder.stride(op.input),
        y=rows,
        columns=matrix.columns,
        num_rows=num_rows,
        zero=held.zero,
        is_signed=int(held.is_signed),
        scales=held.scales,
    )
    recorder.kernel(
        f"products.multiply_integers@{matrix.type}",
        **recorder.planes(matrix),
        x=rows,
        y=output,
        y_stride=stride,
        num_rows=num_rows,
        matrix_rows=matrix.rows,
        tiles=matrix.columns // FORMATS[matrix.type].tile_columns,
        packed_groups=packed_groups,
        **packed_room(matrix, recorder, packed_groups),
    )


def packed_room(matrix: Matrix, recorder: Recorder, groups: int) -> dict[str, int]:
    """Returns what each thread packs so many times 16 rows of a matrix in, as kernels name it."""
    nbytes = STAGE_BYTES + FORMS[matrix.type].packed_bytes(matrix.columns) * groups
    return recorder.room("packed", nbytes)


def _output(op: MatMul, recorder: Recorder) -> tuple[int, int]:
    """Returns the address of what is written, and the bytes from one row to the next."""
    start = recorder.address(op.output) if op.parity is None else recorder.slot(op.parity)
    return start + 4 * op.output_offset, recorder.stride("hidden" if op.parity is not None else op.output)


def own_scratch(matrix: Matrix, recorder: Recorder) -> dict[str, int]:
    """Returns what each thread widens rows of a matrix in, as kernels name it."""
    row_bytes = 4 * matrix.columns
    rows = min(WIDENED_ROWS, max(LEAST_WIDENED_ROWS, WIDENED_BYTES // max(1, row_bytes)))
    return {"widened_rows": rows, **recorder.room("widened", SCALES_BYTES + row_bytes * rows)}


def _input(op: MatMul, recorder: Recorder) -> tuple[int, int]:
    """Returns the address of the rows, as float32, and the bytes from one to the next."""
    if op.activations == "f32":
        return recorder.address(op.input), recorder.stride(op.input)
    columns = op.matrix.columns
    floats = recorder.scratch("input", 4 * recorder.most_rows(op.rows) * columns).view(np.float32)

    def widen(state: NumpyState) -> None:
        rows = state.rows(op.input, op.rows).view(np.uint32)
        found = quantized.dequantize(rows, columns, op.activations)
        floats[: found.size] = found.reshape(-1)

    recorder.host(widen)
    return int(floats.ctypes.data), 4 * columns


def quantize(op: Quantize, recorder: Recorder) -> None:
    if op.activations != "q8":
        recorder.host(partial(numpy_quantize, op))
        return
    recorder.kernel(
        "quantized.quantize",
        x=recorder.address(op.input),
        x_stride=recorder.stride(op.input),
        y=recorder.address(op.output),
        y_stride=recorder.stride(op.output),
        columns=op.columns,
        num_rows=recorder.num_rows(op.rows),
        per_row=op.used or 1,
    )


def _finish(op: MatMul, recorder: Recorder, products: int, stride: int) -> None:
    """Makes of products, which may be in the output, what the operation leaves."""
    output, output_stride = _output(op, recorder)
    finish(
        recorder,
        op.activation,
        products=products,
        products_stride=stride,
        scales=recorder.vector(op.product_scales),
        bias=recorder.vector(op.bias),
        scale=float(op.scale),
        gated=int(op.gated),
        softcap=float(op.softcap),
        accumulates=int(op.accumulates),
        output=output,
        output_stride=output_stride,
        columns=op.columns,
        num_rows=recorder.num_rows(op.rows),
    )
