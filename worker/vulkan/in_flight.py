"""Counts the bytes of weights that a product of one row has asked for at a time.

A memory brings what was asked for: to be as fast as it can be, a card must have asked for its bandwidth times
the delay of a load, some 0.7 us. That is 0.65 MB of an RTX 3090, and 2.3 MB of an H100.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tplaunch.coordinator.split.limits import Limits
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.common import MatMul
from tplaunch.worker.programs.program import Program
from tplaunch.worker.vulkan.dispatch.context import DispatchContext
from tplaunch.worker.vulkan.dispatch.places import PartialsLayout, Selects
from tplaunch.worker.vulkan.dispatch.products import matmul
from tplaunch.worker.vulkan.variants import PLAIN, SPLIT_TILES, Selection, Variant

# Of a card, as most are.
FEATURES, LANES, INVOCATIONS = ("int64", "card"), 32, 1024
USUAL = Selection(FEATURES)  # the variants that it runs before anything was measured
HALF_TILE = 16  # weights of a row
# Weight types of which a lane loads two half tiles at once, as shaders/units.slang has them; of others one.
WHOLE_TILES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")


def lane_weights(weight_type: str) -> int:
    """Weights of a matrix's row that a lane of a product loads at once."""
    return HALF_TILE * (2 if weight_type in WHOLE_TILES else 1)


def lane_bytes(weight_type: str) -> int:
    """Bytes that these are, but for scales in a plane of their own."""
    held = FORMATS[weight_type]
    planes = dict(zip(held.planes, held.plane_bytes, strict=True))
    quants = sum(nbytes for name, nbytes in planes.items() if name != "scales")
    return quants * lane_weights(weight_type) // held.tile_columns


class _Noting:
    """Selects as another one does, and keeps what that chose last."""

    def __init__(self, selection: Selects) -> None:
        self._selection, self.last = selection, PLAIN

    def variant(
        self, family: str, matrix_rows: int = 0, matrix_columns: int = 0, program_rows: int = 0
    ) -> Variant:
        self.last = self._selection.variant(family, matrix_rows, matrix_columns, program_rows)
        return self.last


@dataclass(frozen=True)
class _Nowhere:
    """The place of a buffer that is not there: groups do not depend on it."""

    address: int = 0
    row_length: int = 0


def bytes_in_flight(op: MatMul, limits: Limits, selection: Selects = USUAL) -> int:
    """Counts them for a product of one row on a card that runs all its workgroups at once."""
    noting = _Noting(selection)
    partials, program = PartialsLayout(0, 1, 1, 0, 0), Program(1, 1, ())
    context = DispatchContext(program, lambda name: _Nowhere(), partials, limits, LANES, INVOCATIONS, noting)
    groups = matmul(op, context).groups
    assert groups is not None, "products have a grid"
    # Where a workgroup splits its rows all its lanes load different parts of one tile, else a subgroup's do.
    splits = noting.last.split_from > 0
    together = SPLIT_TILES[op.matrix.type][1] if splits else LANES
    busy = min(together, -(-op.matrix.columns // lane_weights(op.matrix.type)))
    lanes = math.prod(groups) * (1 if splits else context.subgroups) * busy
    asked = lanes * noting.last.tile[1] * lane_bytes(op.matrix.type)
    return min(asked, FORMATS[op.matrix.type].nbytes(op.matrix.rows, op.matrix.columns))


def usual_bytes_in_flight(program: Program, limits: Limits, selection: Selects = USUAL) -> int:
    """Averages them over the products of a program of one row; 0 for none.

    A product takes a time in proportion to its bytes, and in inverse proportion to those in flight: so the
    average is one with which all of them together would take as long.
    """
    total, slowness = 0, 0.0
    for op in (op for segment in program.segments for op in segment.ops):
        if isinstance(op, MatMul):
            nbytes = FORMATS[op.matrix.type].nbytes(op.matrix.rows, op.matrix.columns)
            total += nbytes
            slowness += nbytes / max(1, bytes_in_flight(op, limits, selection))
    return int(total / slowness) if total else 0
