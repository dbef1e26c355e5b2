"""Weights of each type as vectors: 32 neighbouring ones of a row at a time, as worker/formats/ lays planes.

`prepare` of a type takes the addresses of its planes in their order there (of a codebook first), the number
of a tile, how many parts of 32 columns begin there, eight at most, and writes their scales as float32 to
memory. `pair` takes the same addresses, that of these scales, the tile and the number of a part, and returns
the part's 32 weights as two vectors, with the bits that `dequantize` gives. A tile of 256 columns is eight
parts; of shorter tiles each has its own.
"""

from __future__ import annotations

from tplaunch.worker.cpu.integer_layout import PARTS, SCALES_BYTES
from tplaunch.worker.cpu.kernels.formats import blocks, float4, i_quants, k_quants, plain, ternary
from tplaunch.worker.cpu.kernels.formats.base import Weights

__all__ = ["PARTS", "SCALES_BYTES", "WEIGHTS", "Weights"]

WEIGHTS: dict[str, Weights] = {
    **plain.WEIGHTS,
    **blocks.WEIGHTS,
    **k_quants.WEIGHTS,
    **i_quants.WEIGHTS,
    **float4.WEIGHTS,
    **ternary.WEIGHTS,
}
