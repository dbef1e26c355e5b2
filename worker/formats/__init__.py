"""Lays each weight type out on a device: planes of 32-bit words, repacked from GGUF's blocks.

GGUF's blocks have lengths like 18, 84 or 210 bytes; planes (quants in 16-byte words, scales apart) need only
aligned 32-bit loads, which every driver has. shaders/formats/ reads what these files write.
"""

from __future__ import annotations

from tplaunch.worker.formats import blocks, float4, i_quants, k_quants, plain, ternary
from tplaunch.worker.formats.base import PLANE_ALIGNMENT, WeightFormat

__all__ = ["FORMATS", "PLANE_ALIGNMENT", "WeightFormat"]

FORMATS: dict[str, WeightFormat] = {
    **plain.FORMATS,
    **blocks.FORMATS,
    **k_quants.FORMATS,
    **i_quants.FORMATS,
    **float4.FORMATS,
    **ternary.FORMATS,
}
