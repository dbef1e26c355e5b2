"""Checks of experts: routing, tiles, products with the chosen ones, their sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tplaunch.coordinator.split.plan import padded
from tplaunch.worker.checking.case import Arrays, Case, Floats, limits_for, random_floats
from tplaunch.worker.checking.check import BOUND, FLOAT16_BOUND, Check
from tplaunch.worker.checking.products import random_matrix
from tplaunch.worker.checking.rows import (
    COLUMNS,
    MAX_USED,
    NUM_ROWS,
    NUM_SLOTS,
    OFFSET,
    OWN_SLOT,
    ROWS,
    WIDTH,
)
from tplaunch.worker.numpy.device import NumpyDevice
from tplaunch.worker.ops.common import QUANTIZED, QUANTIZED_PAIRS
from tplaunch.worker.ops.experts import (
    PROMPT_PAIRS,
    TILE_PAIRS,
    ExpertMatMul,
    ExpertSum,
    ExpertTiles,
    HeldExperts,
    Route,
    RowGate,
    SharedRoutes,
    route_length,
    tile_words,
)
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.quantized import quantize, row_words

MAX_FIRST, MAX_COUNT = 2, 5  # of what a rank holds
EXPERT_COLUMNS, MATRIX_COLUMNS = 70, 3 * 256
SPREAD = 6  # from the largest of a row's logits to the smallest


def small(held: HeldExperts) -> HeldExperts:
    """Few experts, where a rank may lack the first ones and the last one."""
    return HeldExperts(min(held.used, MAX_USED), min(held.first, MAX_FIRST), min(held.count, MAX_COUNT))


def random_routes(rng: np.random.Generator, held: HeldExperts) -> Floats:
    """Every row's experts and their weights."""
    routes = np.zeros((ROWS, route_length(held.used)), np.float32)
    for row in routes:
        row[: held.used] = rng.permutation(max(held.used, held.first + held.count + 1))[: held.used]
        row[held.used : 2 * held.used] = rng.uniform(0.1, 1, held.used)
    return routes


def route(op: Route) -> Route:
    """The same op: it is small."""
    return replace(op, bias=op.bias and "bias", parity=None if op.parity is None else 1)


def check_route(op: Route) -> Check:
    """No two logits of a row are near to each other, nor become so by the bias."""
    rng = np.random.default_rng(12)
    order = np.stack([rng.permutation(op.count) for _ in range(ROWS)])
    length = route_length(op.used)
    arrays: Arrays = {
        "router": ((order / op.count - 0.5) * SPREAD).astype(np.float32),
        "bias": rng.integers(0, 3, op.count).astype(np.float32),
        "routes": np.zeros((ROWS, length), np.float32),
    }
    partials = np.ones((2, NUM_SLOTS, ROWS * length), np.float32)
    case = Case(
        limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS, partials=partials, write_slot=OWN_SLOT
    )

    def read(results: Arrays) -> Arrays:
        """Experts and weights apart, whose sizes differ; what fills rows up is anything."""
        found = results["routes"] if op.parity is None else results["partials"][1, OWN_SLOT].reshape(ROWS, -1)
        return {"experts": found[:NUM_ROWS, : op.used], "weights": found[:NUM_ROWS, op.used : 2 * op.used]}

    return Check(op, case, read=read)


def shared_routes(op: SharedRoutes) -> SharedRoutes:
    """The same op, small."""
    return SharedRoutes(1)


def check_shared_routes(op: SharedRoutes) -> Check:
    rng = np.random.default_rng(13)
    arrays: Arrays = {"routes": np.zeros((ROWS, 8), np.float32), "hidden": np.zeros((ROWS, 32), np.float32)}
    partials = random_floats(rng, 2, NUM_SLOTS, ROWS * 32)
    return Check(op, Case(limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS, partials=partials))


def expert_tiles(op: ExpertTiles) -> ExpertTiles:
    """The same op, small."""
    return ExpertTiles(small(op.held), op.pairs)


def check_expert_tiles(op: ExpertTiles) -> Check:
    rng = np.random.default_rng(14)
    words = tile_words(op.pairs)
    tiles = np.zeros(op.held.num_tiles(ROWS, op.pairs) * words, np.uint32)
    arrays: Arrays = {"routes": random_routes(rng, op.held), "expert_tiles": tiles}

    def read(results: Arrays) -> Arrays:
        """Returns each tile's expert, number of pairs and pairs; words behind the pairs may be anything."""
        found = results["expert_tiles"].reshape(-1, words).astype(np.int64)
        counts = np.minimum(found[:, 1:2], words)
        held = np.where(np.arange(words - 2) < counts, found[:, 2:], -1)
        return {"expert_tiles": np.hstack((np.where(counts, found[:, :2], 0), held))}

    return Check(op, Case(limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS), read=read)


def expert_matmul(op: ExpertMatMul) -> ExpertMatMul:
    """The same op, small."""
    held = small(op.held)
    rows = held.count * EXPERT_COLUMNS * (2 if op.gated else 1)
    return replace(
        op,
        matrix=Matrix("matrix", op.matrix.type, rows, MATRIX_COLUMNS),
        bias=op.bias and "bias",
        product_scales=op.product_scales and "product_scales",
        input="input" if op.activations == "f32" else QUANTIZED_PAIRS if op.by_pair else QUANTIZED,
        output="output",
        output_offset=OFFSET,
        columns=EXPERT_COLUMNS,
        held=held,
    )


def check_expert_matmul(op: ExpertMatMul) -> Check:
    rng = np.random.default_rng(15)
    held, used = op.held, op.held.used
    routes = random_routes(rng, held)
    arrays: Arrays = {
        "matrix": random_matrix(op.matrix),
        "bias": random_floats(rng, op.matrix.rows),
        "product_scales": rng.uniform(0.5, 2, 2 * held.count).astype(np.float32),
        "input": random_floats(rng, ROWS * (used if op.by_pair else 1), MATRIX_COLUMNS),
        "output": random_floats(rng, ROWS * used, padded(OFFSET + EXPERT_COLUMNS)),
        "routes": routes,
        "expert_tiles": tiles_of(
            ExpertTiles(held, PROMPT_PAIRS if op.of_prompts else TILE_PAIRS), routes, NUM_ROWS
        ),
    }
    if op.activations != "f32":
        length = row_words(MATRIX_COLUMNS, op.activations)
        arrays[op.input] = np.zeros((len(arrays["input"]), length), np.uint32)
        words = quantize(arrays["input"], op.activations)
        arrays[op.input][:, : words.shape[1]] = words
    bound = FLOAT16_BOUND if op.activations == "f16" else BOUND
    return Check(op, Case(limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS), bound)


def tiles_of(op: ExpertTiles, routes: Floats, num_rows: int) -> npt.NDArray[np.uint32]:
    """Returns the tiles that the op makes of the routes of a step's rows."""
    tiles = np.zeros(op.held.num_tiles(len(routes), op.pairs) * tile_words(op.pairs), np.uint32)
    arrays: Arrays = {"routes": routes, "expert_tiles": tiles}
    case = Case(limits_for(max_rows=len(routes)), (op,), arrays, num_rows, len(routes))
    return case.run(NumpyDevice(case.limits))["expert_tiles"]


def expert_sum(op: ExpertSum) -> ExpertSum:
    """The same op, small."""
    return replace(op, held=small(op.held), parity=1)


def check_expert_sum(op: ExpertSum) -> Check:
    rng = np.random.default_rng(16)
    width = padded(COLUMNS)
    arrays: Arrays = {
        "hidden": np.zeros((ROWS, width), np.float32),
        "expert_outputs": random_floats(rng, ROWS * op.held.used, width),
        "routes": random_routes(rng, op.held),
    }
    partials = random_floats(rng, 2, NUM_SLOTS, ROWS * width)
    case = Case(
        limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS, partials=partials, write_slot=OWN_SLOT
    )
    return Check(op, case)


def row_gate(op: RowGate) -> RowGate:
    """The same op, small."""
    return RowGate("weight", WIDTH, "input", "values", OFFSET, COLUMNS)


def check_row_gate(op: RowGate) -> Check:
    rng = np.random.default_rng(17)
    arrays: Arrays = {
        "weight": random_floats(rng, padded(WIDTH)) / np.float32(30),
        "input": random_floats(rng, ROWS, padded(WIDTH)),
        "values": random_floats(rng, ROWS, padded(OFFSET + COLUMNS)),
    }
    arrays["weight"][WIDTH:] = 0
    return Check(op, Case(limits_for(max_rows=ROWS), (op,), arrays, NUM_ROWS, ROWS))
