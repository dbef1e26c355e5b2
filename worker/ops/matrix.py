"""A weight matrix as operations name it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matrix:
    """A weight matrix on the device: `rows` x `columns` of a type, columns a multiple of 32."""

    name: str
    type: str
    rows: int
    columns: int
