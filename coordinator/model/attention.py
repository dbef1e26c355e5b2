"""The features of a layer's attention besides its heads: frozen parts of the specs of spec.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_HEAD_LENGTH = 256  # what one workgroup of the attention kernel holds
MAX_LATENT_LENGTHS = (576, 512)  # of key and value: what the kernel for long heads holds


@dataclass(frozen=True)
class Window:
    """The keys that a row sees: the last `length` with its own, or those since a multiple of `length`."""

    length: int
    chunked: bool = False

    def __post_init__(self) -> None:
        assert 0 < self.length < 2**31, f"a window of {self.length} keys"

    def first_visible(self, positions: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Returns the position of the first key that the row at each position sees."""
        if self.chunked:
            return positions - positions % self.length
        return np.maximum(0, positions + 1 - self.length)


@dataclass(frozen=True)
class QueryKeyNorm:
    """The norm of queries and keys: by their root mean square (rms), or by mean and variance (layer).

    The span of a norm is a head, with one weight for all (head) or one for each (heads), or all heads of a
    row together (row).
    """

    kind: str = "rms"
    span: str = "head"
    weighted: bool = True
    after_rope: bool = False

    def __post_init__(self) -> None:
        assert self.kind in ("rms", "layer"), f"a norm of the kind {self.kind!r}"
        assert self.span in ("head", "heads", "row"), f"a norm over {self.span!r}"


@dataclass(frozen=True)
class Temperature:
    """Queries grow with the position, so that attention stays sharp in long contexts.

    They are multiplied by 1 + scale * ln(1 + floor((position + offset) / length)). Llama 4 calls that
    temperature tuning.
    """

    length: int
    scale: float
    offset: float

    def __post_init__(self) -> None:
        assert 0 < self.length < 2**31, f"a temperature's length of {self.length}"
        assert 0 < self.scale < 1e12, f"a temperature's scale of {self.scale}"


@dataclass(frozen=True)
class Latent:
    """Keys and values of all heads from one short vector, which alone is cached (https://arxiv.org/abs/2405.04434).

    A head's query and key are `nope_length` elements that come of it and `rope_length` rotated ones, which
    the keys of all heads share. Queries are multiplied by the matrices of keys, and the attended vector by
    those of values: so attention sees one KV head, whose key is the vector and the rotated elements, and
    whose value is the vector.
    """

    rank: int  # elements of the vector
    query_rank: int  # of the one that queries come of; 0 where they come of the row
    nope_length: int
    rope_length: int
    value_length: int  # of one head

    def __post_init__(self) -> None:
        assert self.query_rank >= 0 and self.rank > 0 and self.value_length > 0, f"{self}"

    @property
    def query_length(self) -> int:
        """Elements of one head's query, before it is multiplied."""
        return self.nope_length + self.rope_length
