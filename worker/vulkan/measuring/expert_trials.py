"""Trials of experts' products with rows of prompts: as many pairs an expert as a step of the model has."""

from __future__ import annotations

import math

import numpy as np

from tplaunch.worker.buffers.table import Buffer, Placement
from tplaunch.worker.checking.experts import tiles_of
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.experts import PROMPT_PAIRS, ExpertMatMul, ExpertTiles, HeldExperts, route_length
from tplaunch.worker.ops.matrix import Matrix
from tplaunch.worker.ops.quantized import row_words
from tplaunch.worker.vulkan.memory import Memory


def cut_experts(op: ExpertMatMul, pairs_per_expert: float, max_weights: int) -> tuple[ExpertMatMul, int]:
    """Makes a product of prompts with fewer experts, or with fewer columns of one; also returns its rows.

    Each row goes to one expert, and each expert gets as many as it would of a step, rounded up.
    """
    halves = 2 if op.gated else 1
    columns = min(op.columns, max(1, max_weights // (op.matrix.columns * halves)))
    count = max(1, min(op.held.count, max_weights // (op.matrix.columns * columns * halves)))
    matrix = Matrix("matrix", op.matrix.type, count * columns * halves, op.matrix.columns)
    cut = ExpertMatMul(
        matrix,
        None,
        "input",
        "output",
        0,
        columns,
        HeldExperts(1, 0, count),
        tiled=True,
        activation=op.activation if op.gated else None,
        gated=op.gated,
        of_prompts=True,
        activations=op.activations,
    )
    return cut, count * max(1, math.ceil(pairs_per_expert))


def expert_product(op: ExpertMatMul, rows: int) -> tuple[ExpertMatMul, dict[str, Buffer]]:
    """Returns what cut_experts has made, with its buffers."""
    matrix, routes = op.matrix, route_length(op.held.used)
    length = matrix.columns if op.activations == "f32" else row_words(matrix.columns, op.activations)
    return op, {
        "matrix": Buffer(FORMATS[matrix.type].nbytes(matrix.rows, matrix.columns), Placement.WEIGHTS),
        "input": Buffer(rows * length * 4, row_length=length),
        "routes": Buffer(rows * routes * 4, row_length=routes),
        "expert_tiles": Buffer(op.held.tile_bytes(rows)),
        "output": Buffer(rows * op.columns * 4, Placement.READBACK, op.columns),
    }


def write_pairs(memory: Memory, op: ExpertMatMul, rows: int) -> None:
    """Writes rows' experts, which take turns, and the tiles of these."""
    routes = np.zeros((rows, route_length(op.held.used)), np.float32)
    routes[:, 0] = np.arange(rows) % op.held.count
    routes[:, 1] = 1
    memory.write("routes", 0, routes.view(np.uint8).reshape(-1))
    tiles = tiles_of(ExpertTiles(op.held, PROMPT_PAIRS), routes, rows)
    memory.write("expert_tiles", 0, tiles.view(np.uint8))
