"""Products of rows with a matrix, each row by itself: its bits do not depend on the rows beside it.

BLAS adds up in another order for other numbers of rows, so it never sees more than one here. A matrix is
walked in blocks that stay in a core's cache while all rows pass, or each would read it from memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

BLOCK_BYTES = 1 << 20  # of a matrix


def by_row(rows: Floats, matrix: Floats) -> Floats:
    """rows [rows, columns] times the transposed matrix [outputs, columns] -> [rows, outputs].

    The elements of a row lie side by side in both. Every element's sum is of one shape whatever `rows` holds,
    because NumPy multiplies a stack of vectors one by one (BLAS's gemv).
    """
    num_rows, (num_outputs, num_columns) = len(rows), matrix.shape
    product = np.empty((num_rows, num_outputs), np.float32)
    block = max(1, BLOCK_BYTES // (4 * max(1, num_columns)))
    for start in range(0, num_outputs, block):
        part = slice(start, start + block)
        if num_rows == 1:  # the same, without what a stack costs
            np.matmul(matrix[part], rows[0], out=product[0, part])
        else:
            np.matmul(matrix[part], rows[:, :, None], out=product[:, part, None])
    return product
