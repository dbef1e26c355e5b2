"""Records products of rows with their experts' matrices."""

from __future__ import annotations

from tplaunch.worker.cpu.products import own_scratch
from tplaunch.worker.cpu.recorder import Recorder
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.activation_functions import ACTIVATION_NUMBERS
from tplaunch.worker.ops.experts import ExpertMatMul

BLOCK = 16  # columns of pairs that are finished at once: kernels/expert_products.py


def expert_matmul(op: ExpertMatMul, recorder: Recorder) -> None:
    matrix, held = op.matrix, op.held
    assert op.activations == "f32", f"{op.activations} is of devices with cooperative matrices"
    most_rows = recorder.most_rows()
    lists = recorder.room("lists", 4 * (held.count + 2 + 2 * most_rows * held.used))
    products = recorder.room("pairs", 8 * BLOCK * most_rows * held.used)
    recorder.kernel(
        f"expert_products.multiply@{matrix.type}",
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
        gated=int(op.gated),
        onto_up=int(op.onto_up),
        weighs=int(op.weighs),
        scales=recorder.vector(op.product_scales),
        bias=recorder.vector(op.bias),
        activation=ACTIVATION_NUMBERS[op.activation],
        **own_scratch(matrix, recorder),
        lists=lists["scratch"],
        lists_bytes=lists["scratch_bytes"],
        products=products["scratch"],
        products_bytes=products["scratch_bytes"],
    )
