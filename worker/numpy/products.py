"""Products with weight matrices in NumPy, which holds them widened to float32."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from tplaunch.worker.formats import FORMATS
from tplaunch.worker.numpy.by_row import by_row
from tplaunch.worker.numpy.rows import activated
from tplaunch.worker.numpy.state import NumpyState
from tplaunch.worker.ops import quantized
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.ops.matrix import Matrix

Floats = npt.NDArray[np.float32]


def widened(matrix: Matrix, state: NumpyState) -> Floats:
    """Widens a matrix once and drops its planes, so that it is held once."""
    weight_format = FORMATS[matrix.type]
    offsets = weight_format.plane_offsets(matrix.rows, matrix.columns)
    planes = [state.bytes[matrix.name][start:stop] for start, stop in itertools.pairwise(offsets)]
    floats = weight_format.dequantize(planes, matrix.rows, matrix.columns)
    del state.bytes[matrix.name]
    return np.ascontiguousarray(floats)


def as_float16(matrix: Floats) -> Floats:
    """Rounds weights as cooperative matrices hold them."""
    return matrix.astype(np.float16).astype(np.float32)


def matmul(op: MatMul, state: NumpyState) -> None:
    matrix = state.matrices[op.matrix.name]
    rows = state.rows(op.input, op.rows)
    if op.activations != "f32":
        rows = quantized.dequantize(rows.view(np.uint32), op.matrix.columns, op.activations)
    if op.activations == "f16":  # so are the weights, for cooperative matrices
        matrix = as_float16(matrix)
    finish(op, by_row(rows[:, : op.matrix.columns], matrix), state)


def finish(op: MatMul, product: Floats, state: NumpyState) -> None:
    """Makes of the products [rows, matrix rows] what the operation leaves, and writes that."""
    if op.product_scales is not None:
        product *= state.vector(op.product_scales, op.matrix.rows)
    if op.bias is not None:
        product += state.vector(op.bias, op.matrix.rows)
    if op.scale != 1:
        product *= np.float32(op.scale)
    product = activated(product, op.activation, op.gated)
    if op.softcap:
        product = np.float32(op.softcap) * np.tanh(product / np.float32(op.softcap))
    output = output_of(state, op)
    output[:] = output + product if op.accumulates else product


def output_of(state: NumpyState, op: MatMul) -> Floats:
    """Returns where a product goes [rows, columns]."""
    if op.parity is not None:
        output = state.partial(op.parity, state.write_slot)
    else:
        output = state.rows(op.output, op.rows)
    return output[:, op.output_offset : op.output_offset + op.columns]
