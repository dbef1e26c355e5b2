"""Checks of products: rows and columns that cross tiles, of any weight type, with all that follows them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.checking.case import Arrays, Bytes, Case, filled_matrix, limits_for, random_floats
from tplaunch.worker.checking.check import BOUND, FLOAT16_BOUND, Check
from tplaunch.worker.checking.rows import NUM_ROWS, NUM_SLOTS, OFFSET, OWN_SLOT, ROWS
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.common import QUANTIZED, MatMul
from tplaunch.worker.ops.latent import HeadParts, HeadProducts
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.quantized import quantize, row_words
from tplaunch.worker.weights.random_weights import random_blocks

# More rows than a workgroup multiplies on any device, and more columns than a subgroup of 64 reads at once.
MATRIX_ROWS, MATRIX_COLUMNS = 150, 9 * 256
NUM_HEADS, HEAD_ROWS = 3, 37


def random_matrix(matrix: Matrix) -> Bytes:
    """A buffer with random weights."""
    weight_type = WEIGHT_TYPES[matrix.type]
    row_bytes = weight_type.row_bytes(matrix.columns)
    raw = random_blocks(weight_type, matrix.rows * row_bytes // weight_type.block_bytes)
    return filled_matrix(matrix, raw.reshape(matrix.rows, row_bytes))


def matmul(op: MatMul) -> MatMul:
    """The same op, small."""
    is_partial = op.parity is not None
    return replace(
        op,
        matrix=Matrix("matrix", op.matrix.type, MATRIX_ROWS, MATRIX_COLUMNS),
        bias=op.bias and "bias",
        product_scales=op.product_scales and "product_scales",
        input="input" if op.activations == "f32" else QUANTIZED,
        output="partials" if is_partial else "output",
        output_offset=0 if is_partial else OFFSET,
        parity=1 if is_partial else None,
    )


def check_matmul(op: MatMul, rows: int) -> Check:
    """Checks a product of one row, for which there are kernels of their own, or of several."""
    rng = np.random.default_rng(5)
    num_rows, width = min(rows, NUM_ROWS), padded(MATRIX_ROWS)
    arrays: Arrays = {
        "matrix": random_matrix(op.matrix),
        "bias": random_floats(rng, MATRIX_ROWS),
        "product_scales": rng.uniform(0.5, 2, MATRIX_ROWS).astype(np.float32),
        "input": random_floats(rng, rows, MATRIX_COLUMNS),
        "output": random_floats(rng, rows, OFFSET + MATRIX_ROWS),
        "hidden": random_floats(rng, rows, width),
    }
    if op.activations != "f32":
        arrays[QUANTIZED] = np.zeros((rows, row_words(MATRIX_COLUMNS, op.activations)), np.uint32)
        words = quantize(arrays["input"], op.activations)
        arrays[QUANTIZED][:, : words.shape[1]] = words
    of_logits = op.rows == "logit_rows"
    case = Case(
        limits_for(max_rows=rows, max_logit_rows=rows),
        (op,),
        arrays,
        num_rows,
        rows,
        logit_rows=tuple(range(num_rows)) if of_logits else (),
        max_logit_rows=rows if of_logits else 0,
        partials=random_floats(rng, 2, NUM_SLOTS, rows * width),
        write_slot=OWN_SLOT,
    )
    return Check(op, case, FLOAT16_BOUND if op.activations == "f16" else BOUND)


def head_products(op: HeadProducts) -> HeadProducts:
    """The same op, small."""
    columns = 3 * FORMATS[op.matrix.type].tile_columns
    matrix = Matrix("matrix", op.matrix.type, NUM_HEADS * HEAD_ROWS, columns)
    source, target = HeadParts("input", columns + 8, 4), HeadParts("output", HEAD_ROWS + 5, OFFSET)
    return HeadProducts(matrix, NUM_HEADS, source, target)


def check_head_products(op: HeadProducts) -> Check:
    rng = np.random.default_rng(6)
    arrays: Arrays = {
        "matrix": random_matrix(op.matrix),
        "input": random_floats(rng, ROWS, op.input.offset + NUM_HEADS * op.input.stride),
        "output": random_floats(rng, ROWS, op.output.offset + NUM_HEADS * op.output.stride),
    }
    return Check(op, Case(limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS))
