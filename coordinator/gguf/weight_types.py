"""The GGML tensor types that models may be made of: how many weights a block holds, in how many bytes.

Numbers and sizes are those of ggml.h and ggml-common.h (https://github.com/ggml-org/ggml).
"""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.model.checks import exact_quotient


@dataclass(frozen=True)
class WeightType:
    """The layout of a GGML tensor type in a file: `block_columns` weights in a block of `block_bytes`."""

    name: str
    type_id: int
    block_columns: int
    block_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of `columns` weights; columns must fill whole blocks."""
        return exact_quotient(columns, self.block_columns, f"columns of a {self.name} row") * self.block_bytes


WEIGHT_TYPES: dict[str, WeightType] = {
    weight_type.name: weight_type
    for weight_type in (
        WeightType("F32", 0, 1, 4),
        WeightType("F16", 1, 1, 2),
        WeightType("Q4_0", 2, 32, 18),
        WeightType("Q4_1", 3, 32, 20),
        WeightType("Q5_0", 6, 32, 22),
        WeightType("Q5_1", 7, 32, 24),
        WeightType("Q8_0", 8, 32, 34),
        WeightType("Q2_K", 10, 256, 84),
        WeightType("Q3_K", 11, 256, 110),
        WeightType("Q4_K", 12, 256, 144),
        WeightType("Q5_K", 13, 256, 176),
        WeightType("Q6_K", 14, 256, 210),
        WeightType("IQ2_XXS", 16, 256, 66),
        WeightType("IQ2_XS", 17, 256, 74),
        WeightType("IQ3_XXS", 18, 256, 98),
        WeightType("IQ1_S", 19, 256, 50),
        WeightType("IQ4_NL", 20, 32, 18),
        WeightType("IQ3_S", 21, 256, 110),
        WeightType("IQ2_S", 22, 256, 82),
        WeightType("IQ4_XS", 23, 256, 136),
        WeightType("IQ1_M", 29, 256, 56),
        WeightType("BF16", 30, 1, 2),
        WeightType("TQ1_0", 34, 256, 54),
        WeightType("TQ2_0", 35, 256, 66),
        WeightType("MXFP4", 39, 32, 17),
        WeightType("NVFP4", 40, 64, 36),
    )
}
