"""How matrices and activations lie in scratch for products of integers: a word is four columns.

Packed are 16 rows of a matrix: a lane of a vector is a row's. Behind the integers, eight vectors of each part
of 32 columns, are their scales as float32: a vector of each part, or two where 16 columns have one. Where
there is an offset for each scale, it follows a part's only one, or offsets of all parts are behind the scales
of all. Room is for whole eights of parts.

Arranged are eight rows of activations. Of each part are eight words of each row, by word and then by row,
the rows' scales, the integers that sums begin with, and totals of the activations times their scales, of the
first 16 columns and of the others, or of all 32.
"""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.split.plan import COLUMN_TILE

ROWS, VECTOR = 16, 64  # of a matrix that are packed together; bytes
PARTS = 8  # of 32 columns, whose scales are prepared at once
PART_BYTES = 8 * VECTOR
SCALES_BYTES = 128  # of a row's eight parts, before they are packed
# Bytes of a thread's scratch for scales that are not packed yet, and for bits of integers that lie apart.
STAGED_SCALES, STAGE_BYTES = ROWS * SCALES_BYTES, ROWS * SCALES_BYTES + 6 * PART_BYTES

TOGETHER = 8  # rows of activations
HALF = 4 * TOGETHER  # bytes of one number of each
SCALES = 8 * HALF  # where these are in a part
STARTS, TOTALS = SCALES + HALF, SCALES + 3 * HALF
ARRANGED_BYTES = TOTALS + 2 * HALF  # of a part


@dataclass(frozen=True)
class IntegerForm:
    """How a type's weights are integers: (integer - zero) * scale + offset."""

    zero: int = 0
    is_signed: bool = False  # the others are from 0 to 127
    scales: int = 1  # of a part
    has_offsets: bool = False

    @property
    def vectors(self) -> int:
        """The vectors of a part's scales and offsets."""
        return self.scales * (1 + self.has_offsets)

    def packed_bytes(self, columns: int) -> int:
        """Returns the room for 16 rows."""
        parts = -(-columns // (COLUMN_TILE * PARTS)) * PARTS
        return parts * (PART_BYTES + VECTOR * self.vectors)


FORMS = {
    "Q8_0": IntegerForm(is_signed=True),
    "Q4_0": IntegerForm(zero=8),
    "Q4_1": IntegerForm(has_offsets=True),
    "Q5_0": IntegerForm(zero=16),
    "Q5_1": IntegerForm(has_offsets=True),
    "Q2_K": IntegerForm(scales=2, has_offsets=True),
    "Q3_K": IntegerForm(zero=4, scales=2),
    "Q4_K": IntegerForm(has_offsets=True),
    "Q5_K": IntegerForm(has_offsets=True),
    "Q6_K": IntegerForm(zero=32, scales=2),
}
