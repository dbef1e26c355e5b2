"""Records each head's own products."""

from __future__ import annotations

from tplaunch.worker.cpu.products import own_scratch
from tplaunch.worker.cpu.recorder import Recorder
from tplaunch.worker.formats import FORMATS
from tplaunch.worker.ops.latent import HeadProducts


def head_products(op: HeadProducts, recorder: Recorder) -> None:
    matrix, source, output = op.matrix, op.input, op.output
    stride = recorder.stride(source.buffer)
    end = 4 * (source.offset + (op.num_heads - 1) * source.stride + matrix.columns)
    is_beyond = end > stride  # then a head's part is copied, with zeros behind it
    copies = recorder.room("copies", 4 * recorder.most_rows() * matrix.columns if is_beyond else 0)
    recorder.kernel(
        f"latent.multiply@{matrix.type}",
        **recorder.planes(matrix),
        x=recorder.address(source.buffer, source.offset),
        x_stride=stride,
        x_part=4 * source.stride,
        x_bytes=stride - 4 * source.offset,
        y=recorder.address(output.buffer, output.offset),
        y_stride=recorder.stride(output.buffer),
        y_part=4 * output.stride,
        num_rows=recorder.num_rows(),
        num_heads=op.num_heads,
        length=op.length,
        columns=matrix.columns,
        tiles=matrix.columns // FORMATS[matrix.type].tile_columns,
        **own_scratch(matrix, recorder),
        copies=copies["scratch"],
        copies_bytes=copies["scratch_bytes"],
    )
