"""The operations that only latent attention needs, as frozen data: what each head does by itself.

What each computes is defined by worker/numpy/latent.py; shaders/ holds the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from tplaunch.worker.ops.matrix import Matrix


@dataclass(frozen=True)
class HeadParts:
    """The place of the heads' parts in a row of a buffer: the offset of the first, and their distance."""

    buffer: str
    stride: int
    offset: int = 0


@dataclass(frozen=True)
class HeadProducts:
    """Each head's part of the output = its own matrix x its part of the input.

    The matrix is [heads * length, columns]: those of the heads, one after another.
    """

    matrix: Matrix
    num_heads: int
    input: HeadParts
    output: HeadParts

    @property
    def length(self) -> int:
        """Elements of a head's output."""
        return self.matrix.rows // self.num_heads

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.input.buffer,))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output.buffer,))


@dataclass(frozen=True)
class CopyHeads:
    """Each head's part of the output = its part of the input, of `length` elements."""

    num_heads: int
    length: int
    input: HeadParts
    output: HeadParts

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.input.buffer,))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output.buffer,))
