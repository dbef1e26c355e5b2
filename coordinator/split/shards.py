"""The part of a tensor that a rank holds: what splitting a model comes down to."""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.coordinator.split.plan import Span, padded

ONE = Span(0, 1)


@dataclass(frozen=True)
class Shard:
    """The part of a file's tensor that one rank holds: whole blocks around its own columns.

    `column_offset` is the place of the first own column in the shard; activations before it, and after
    the last own column, are zero, so that what else the blocks hold adds nothing. A transposed
    shard's rows are the file's columns, as float32.
    """

    tensor: str
    type: str
    rows: Span
    columns: Span  # of the file's tensor, whole blocks
    column_offset: int
    # Where a tensor holds a matrix for each expert, or head, one after another, `rows` are those of each.
    experts: Span = ONE
    expert_rows: int = 0  # of one expert in the file
    transposed: bool = False
    is_column: bool = False  # a vector that the file has as a column of one-element rows
    repeats: int = 1  # of a vector's numbers on the device: each is of so many rows of a matrix

    @property
    def num_rows(self) -> int:
        """Rows of all experts together."""
        return len(self.experts) * len(self.rows)

    @property
    def padded_columns(self) -> int:
        """Columns on the device: whole tiles, filled up with zeros."""
        return padded(len(self.columns))
