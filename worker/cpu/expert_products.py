"""Records products of rows with their experts' matrices."""

from __future__ import annotations

from tplaunch.coordinator.split.plan import COLUMN_TILE
from tplaunch.worker.cpu.integer_layout import ARRANGED_BYTES, TOGETHER
from tplaunch.worker.cpu.products import own_scratch, packed_room
from tplaunch.worker.cpu.recorder import Recorder
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.activation_functions import ACTIVATION_NUMBERS
from tplaunch.worker.ops.experts import ExpertMatMul

BLOCK = 16  # columns of pairs that are finished at once: kernels/expert_products.py


def expert_matmul(op: ExpertMatMul, recorder: Recorder) -> None:
    matrix, held = op.matrix, op.held
    assert op.activations in ("f32", "q8"), f"{op.activations} is of devices with cooperative matrices"
    are_integers = op.activations == "q8"
    most_rows = recorder.most_rows()
    lists = recorder.room("lists", 4 * (held.count + 2 + 2 * most_rows * held.used))
    products = recorder.room("pairs", 8 * BLOCK * most_rows * held.used)
    num_arranged = -(-most_rows * held.used // TOGETHER) if are_integers else 0
    arranged = recorder.room("arranged pairs", num_arranged * matrix.columns // COLUMN_TILE * ARRANGED_BYTES)
    if are_integers:
        own = {"widened_rows": 1, **packed_room(matrix, recorder, 1)}
    else:
        own = own_scratch(matrix, recorder)
    recorder.kernel(
        f"expert_products.{'multiply_integers' if are_integers else 'multiply'}@{matrix.type}",
        **recorder.planes(matrix),
        x=recorder.address(op.input),
        x_stride=recorder.stride(op.input),
        by_pair=int(op.by_pair),
        y=recorder.address(op.output, op.output_offset),
        y_stride=recorder.stride(op.output),
        num_rows=recorder.num_rows(),
        routes=recorder.address("routes"),
        routes_stride=recorder.stride("routes"),
        used=held.used,
        first_expert=held.first,
        num_experts=held.count,
        columns=op.columns,
        tiles=matrix.columns // FORMATS[matrix.type].tile_columns,
        row_columns=matrix.columns,
        gated=int(op.gated),
        onto_up=int(op.onto_up),
        weighs=int(op.weighs),
        scales=recorder.vector(op.product_scales),
        bias=recorder.vector(op.bias),
        activation=ACTIVATION_NUMBERS[op.activation],
        **own,
        lists=lists["scratch"],
        lists_bytes=lists["scratch_bytes"],
        products=products["scratch"],
        products_bytes=products["scratch_bytes"],
        arranged=arranged["scratch"],
        arranged_bytes=arranged["scratch_bytes"],
    )
