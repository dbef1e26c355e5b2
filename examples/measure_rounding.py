"""Measures what rounding does to products: normalised mean squared errors against float32, by weight type.

Rows of random numbers, an eighth of them ten times as large, by random weights of every type, with NumPy;
f16 is what cooperative matrices multiply, q8 what integer dot products do.

python examples/measure_rounding.py --columns 4096
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tplaunch.worker.checking.case import Case, limits_for
from tplaunch.worker.checking.products import random_matrix
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.common import QUANTIZED, MatMul
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.quantized import quantize, row_words

NUM_ROWS, MATRIX_ROWS = 16, 64
LARGE, FACTOR = 8, 10  # every eighth column has numbers so many times as large

Floats = npt.NDArray[np.float32]


def product(matrix: Matrix, rows: Floats, activations: str) -> npt.NDArray[np.float64]:
    """Rows by a matrix of random weights [rows, matrix rows]."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "matrix": random_matrix(matrix),
        "input": rows,
        "output": np.zeros((len(rows), matrix.rows), np.float32),
    }
    op = MatMul(matrix, None, "input", "output", 0, "rows", activations=activations)
    if activations != "f32":
        words = quantize(rows, activations)
        padded = np.zeros((len(rows), row_words(matrix.columns, activations)), np.uint32)
        padded[:, : words.shape[1]] = words
        arrays[QUANTIZED], op = padded, replace(op, input=QUANTIZED)
    case = Case(limits_for(max_rows=len(rows)), (op,), arrays, len(rows), len(rows))
    found = case.run(NumpyDevice(case.limits))["output"]
    return found[:, : matrix.rows].astype(np.float64)


def error(name: str, columns: int, activations: str) -> float:
    """The mean squared error over the mean square."""
    rows = np.random.default_rng(0).standard_normal((NUM_ROWS, columns)).astype(np.float32)
    rows[:, ::LARGE] *= FACTOR
    matrix = Matrix("matrix", name, MATRIX_ROWS, columns)
    exact, rounded = product(matrix, rows, "f32"), product(matrix, rows, activations)
    return float(np.square(rounded - exact).mean() / np.square(exact).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--columns", type=int, default=4096, help="a multiple of 256 (default: %(default)s)")
    columns = parser.parse_args().columns
    print(f"{columns} columns   f16       q8")
    for name, weight_format in FORMATS.items():
        f16 = f"{error(name, columns, 'f16'):.1e}" if weight_format.fits_float16 else "float32"
        q8 = f"{error(name, columns, 'q8'):.1e}" if weight_format.has_integers else "float32"
        print(f"{name:<13}  {f16:<9} {q8}")


if __name__ == "__main__":
    main()
