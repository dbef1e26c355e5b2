"""How far two right devices may be apart in the products of experts: what follows from rounding, no more.

The sum of n products is rounded n times. Roundings are as often up as down, so that the error of a sum is
within DEVIATIONS * sqrt(n) * UNIT of the sum of the terms' sizes, in whatever order it is made
(Higham and Mary, https://doi.org/10.1137/18M1226312); what comes behind it makes it larger or smaller.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tplaunch.worker.ops.activation_functions import ACTIVATION_FUNCTIONS, GATED_ACTIVATION_FUNCTIONS
from tplaunch.worker.ops.experts import ExpertMatMul

UNIT = 2.0**-24  # the largest relative error of a float32
DEVIATIONS = 6.0  # at which one element in a hundred million is beyond
SMALLEST = 2.0**-126  # smaller numbers may be flushed to 0: a block's scale, or a product
MAX_QUANT = 127.0  # by which such a scale is multiplied
WEIGHT_ROUNDINGS = 4.0  # of a weight that is made of quants, scales and minimums, on each device
# Of an activation, relative to what goes in: Vulkan lets an exponential of x be off by 3 + 2 |x| units.
ACTIVATION_ROUNDINGS = 32.0
Doubles = npt.NDArray[np.float64]


def output_bounds(
    op: ExpertMatMul, arrays: Mapping[str, npt.NDArray[Any]], weights: Doubles, num_rows: int
) -> Doubles:
    """The largest difference of each element of the output; 0 for those that are not written.

    weights: [op.matrix.rows, op.matrix.columns], as the matrix stands for them.
    """
    held, used = op.held, op.held.used
    bounds = np.zeros(arrays["output"].shape)
    parts = weights.reshape(-1, held.count, op.columns, op.matrix.columns)
    for pair in range(num_rows * used):
        row, choice = divmod(pair, used)
        expert = int(arrays["routes"][row, choice]) - held.first
        if not 0 <= expert < held.count:
            continue
        inputs = arrays["input"][pair if op.by_pair else row, : op.matrix.columns].astype(np.float64)
        weight = float(arrays["routes"][row, used + choice]) if op.weighs else 1.0
        found = [
            _product(op, arrays, part[expert], index * held.count + expert, inputs, weight)
            for index, part in enumerate(parts)
        ]
        written = slice(op.output_offset, op.output_offset + op.columns)
        if op.onto_up:
            up = arrays["output"][pair, written].astype(np.float64)
            found.append((up, np.zeros_like(up)))
        bounds[pair, written] = _after_activation(op.activation, found)
    return bounds


def _product(
    op: ExpertMatMul,
    arrays: Mapping[str, npt.NDArray[Any]],
    matrix: Doubles,  # [columns, inputs]
    index: int,  # of the expert's matrix among all
    inputs: Doubles,
    weight: float,
) -> tuple[Doubles, Doubles]:
    """One expert's products with a row, and how far they may be apart."""
    scale = weight * (float(arrays["product_scales"][index]) if op.product_scales is not None else 1.0)
    sizes = np.abs(matrix) @ np.abs(inputs)
    of_sum = DEVIATIONS * np.sqrt(2 * inputs.size) * sizes  # of the difference of two such sums
    of_weights = 2 * WEIGHT_ROUNDINGS * np.abs(matrix).max() * np.abs(inputs).sum() / np.sqrt(inputs.size)
    flushed = SMALLEST * (inputs.size + MAX_QUANT * np.abs(inputs).sum())
    values, bounds = scale * (matrix @ inputs), scale * (UNIT * (of_sum + of_weights) + flushed)
    if op.bias is not None:
        values = values + arrays["bias"].reshape(-1, op.columns)[index]
    return values, bounds + 8 * UNIT * np.abs(values)


def _after_activation(activation: str | None, found: list[tuple[Doubles, Doubles]]) -> Doubles:
    """From the bounds of gate and up, or of one product alone, to those of the result."""
    values = [value for value, _ in found]
    result = _activated(values, activation)
    corners = itertools.product(*[(value - bound, value + bound) for value, bound in found])
    apart = np.max([np.abs(_activated(list(corner), activation) - result) for corner in corners], axis=0)
    sizes = np.abs(result) + (np.prod(np.abs(values), axis=0) if activation is not None else 0)
    bounds: Doubles = apart + ACTIVATION_ROUNDINGS * UNIT * sizes
    return bounds


def _activated(values: list[Doubles], activation: str | None) -> Doubles:
    gated: dict[str, Callable[..., Any]] = dict(GATED_ACTIVATION_FUNCTIONS)
    alone: dict[str, Callable[..., Any]] = dict(ACTIVATION_FUNCTIONS)
    with np.errstate(over="ignore"):
        if activation in gated:
            result: Doubles = gated[activation](*values)
        else:
            gate = values[0] if activation is None else alone[activation](values[0])
            result = np.prod([gate, *values[1:]], axis=0)
    return result
