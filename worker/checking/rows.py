"""Checks of what works row by row: sums with norms, slices of sums, quantization, activations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.checking.case import Arrays, Case, Floats, limits_for, random_floats
from tplaunch.worker.checking.check import FLOAT16_BOUND, INT8_BOUND, Check
from tplaunch.worker.ops.common import Activate, Quantize, SumNorm, SumSlice
from tplaunch.worker.ops.quantized import dequantize, row_words

ROWS, NUM_ROWS = 8, 5  # of the program, and of the step
LOGIT_ROWS = (3, 0, 4)
WIDTH = 1100  # more float4 than a workgroup has invocations
COLUMNS, OFFSET = 150, 3  # more than a workgroup has invocations, and no multiple of anything
QUANTIZED_COLUMNS = 72 * 32  # more tiles than a workgroup has invocations
NUM_SLOTS, OWN_SLOT = 3, 1
MAX_USED = 4  # experts of a row


def padded_rows(rng: np.random.Generator, *shape: int) -> Floats:
    """Random rows, filled up with zeros to whole tiles."""
    rows = np.zeros((*shape[:-1], padded(shape[-1])), np.float32)
    rows[..., : shape[-1]] = random_floats(rng, *shape)
    return rows


def sum_norm(op: SumNorm) -> SumNorm:
    """The same op, small."""
    return replace(
        op,
        source=op.source and ("hidden" if op.source == "hidden" else "embedding"),
        weight=op.weight and "weight",
        bias=op.bias and "bias",
        width=WIDTH,
        epsilon=1e-5,
        output="hidden" if op.output == "hidden" else "output",
        addend=op.addend if op.addend in (None, "partials") else "block",
        parity=None if op.parity is None else 1,
    )


def check_sum_norm(op: SumNorm) -> Check:
    rng = np.random.default_rng(1)
    arrays: Arrays = {name: padded_rows(rng, ROWS, WIDTH) for name in ("hidden", "embedding", "block")}
    arrays["output"] = padded_rows(rng, ROWS, WIDTH)
    arrays |= {name: padded_rows(rng, WIDTH) for name in ("weight", "bias")}
    partials = padded_rows(rng, 2, NUM_SLOTS, ROWS, WIDTH).reshape(2, NUM_SLOTS, -1)
    of_logits = {"logit_rows": LOGIT_ROWS, "max_logit_rows": len(LOGIT_ROWS)}
    case = Case(
        limits_for(max_rows=ROWS, max_logit_rows=len(LOGIT_ROWS)),
        (op,),
        arrays,
        NUM_ROWS,
        ROWS,
        partials=partials,
        **(of_logits if op.rows == "logit_rows" else {}),  # type: ignore[arg-type]
    )
    return Check(op, case)


def sum_slice(op: SumSlice) -> SumSlice:
    """The same op, small."""
    return SumSlice(1, OWN_SLOT)


def check_sum_slice(op: SumSlice) -> Check:
    rng = np.random.default_rng(2)
    arrays: Arrays = {"hidden": padded_rows(rng, ROWS, WIDTH)}
    partials = padded_rows(rng, 2, NUM_SLOTS, ROWS, WIDTH).reshape(2, NUM_SLOTS, -1)
    case = Case(
        limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS, partials=partials, write_slot=OWN_SLOT
    )
    return Check(op, case)


def quantize(op: Quantize) -> Quantize:
    """The same op, small."""
    return Quantize("input", QUANTIZED_COLUMNS, "rows", op.activations, min(op.used, MAX_USED))


def check_quantize(op: Quantize) -> Check:
    rng = np.random.default_rng(3)
    per_row = max(op.used, 1)
    values = random_floats(rng, ROWS * per_row, op.columns)
    values[:, :32] = 0
    words = row_words(op.columns, op.activations)
    arrays: Arrays = {"input": values, op.output: np.zeros((len(values), words), np.uint32)}

    def read(results: Arrays) -> Arrays:
        found = results[op.output][: NUM_ROWS * per_row]
        return {op.output: dequantize(found, op.columns, op.activations)}

    bound = INT8_BOUND if op.activations == "q8" else FLOAT16_BOUND
    return Check(op, Case(limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS), bound, read)


def activate(op: Activate) -> Activate:
    """The same op, small."""
    return replace(
        op,
        columns=COLUMNS,
        output_offset=OFFSET,
        divisors=op.divisors and "divisors",
        output="activated",
    )


def check_activate(op: Activate) -> Check:
    rng = np.random.default_rng(4)
    arrays: Arrays = {
        "gate_up": 3 * random_floats(rng, ROWS, 2 * COLUMNS),
        "activated": random_floats(rng, ROWS, padded(OFFSET + COLUMNS)),
        "divisors": 1 + rng.random(COLUMNS, np.float32),
    }
    return Check(op, Case(limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS))
