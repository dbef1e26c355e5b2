"""The operations that programs are made of, each as frozen data with the buffers that it reads and writes.

What each computes is defined by worker/numpy_device.py; shaders/ holds the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Union

from worker.expert_ops import ExpertMatMul, ExpertSum, ExpertTiles, Route, RowGate, SharedRoutes
from worker.matrix import Matrix as Matrix  # noqa: PLC0414 - one of the things that ops are made of

RowSet = Literal["rows", "logit_rows"]  # all rows of a step, or those that get logits
QUANTIZED = "quantized"  # the buffer that Quantize writes, for the products that come next


@dataclass(frozen=True)
class SumNorm:
    """hidden = source + addend; output = norm of hidden, times the weight, plus the bias.

    The addend is the sum of the ranks' partials of a parity, or of their first slot where `summed`, or what
    another buffer holds, or nothing. For logit_rows only the chosen rows are computed, packed together in the
    output, and hidden is not written; nor is it without a source: then the addend alone is normalised.
    """

    source: str | None
    weight: str | None  # None for no norm: output = hidden
    width: int  # elements of a row, without its padding
    epsilon: float
    output: str
    rows: RowSet
    addend: str | None = None  # partials or another buffer
    parity: int | None = None  # of partials
    norm: str = "rms"  # or layer
    bias: str | None = None
    summed: bool = False

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(name for name in (self.source, self.addend) if name is not None)

    @property
    def stores_hidden(self) -> bool:
        """Whether hidden is written; a sum of hidden alone is in its place already."""
        return (
            self.rows == "rows" and self.source is not None and (self.source, self.addend) != ("hidden", None)
        )

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output, "hidden") if self.stores_hidden else (self.output,))


@dataclass(frozen=True)
class SumSlice:
    """partials[parity, 0] = the sum of all ranks' partials: this rank's slice of it.

    The first half of a two-phase all-reduce; collectives/arena.py says how slices are cut.
    """

    parity: int
    rank: int

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("partials",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("partials",))


@dataclass(frozen=True)
class Quantize:
    """quantized[row] = the first columns of input[row], as worker/quantized.py describes."""

    input: str
    columns: int  # a multiple of 32
    rows: RowSet
    activations: str  # q8 or f16

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.input,))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((QUANTIZED,))


@dataclass(frozen=True)
class MatMul:
    """output[row, offset : offset + matrix.rows] = (input[row] x transposed matrix + bias) * scale.

    To the buffer "partials" it writes this rank's slot of the given parity. An activation is applied to
    that; a gated product has as many gates as ups, one after the other, and writes activation(gate) * up,
    half as many columns. Its input are float32, or what Quantize has made of them.
    """

    matrix: Matrix
    bias: str | None
    input: str
    output: str
    output_offset: int
    rows: RowSet
    parity: int | None = None
    activation: str | None = None  # one of worker/activations.py
    gated: bool = False
    activations: str = "f32"
    scale: float = 1.0
    softcap: float = 0.0  # outputs become cap * tanh(output / cap); 0 for none
    accumulates: bool = False  # onto what the output holds already

    @property
    def columns(self) -> int:
        """Of the output."""
        return self.matrix.rows // 2 if self.gated else self.matrix.rows

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.input, self.output) if self.accumulates else (self.input,))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output,))


@dataclass(frozen=True)
class HeadNorm:
    """Normalises each query head and each key head in qkv by its root mean square, in place.

    Every head of a kind has the same weight [length].
    """

    num_heads: int
    num_kv_heads: int
    length: int
    query_weight: str
    key_weight: str
    epsilon: float

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("qkv",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("qkv",))


@dataclass(frozen=True)
class RopeCache:
    """Turns queries and keys by the step's rope table; writes keys, and values, to the layer's cache.

    A row of qkv holds all query heads, then all key heads, then all value heads.
    """

    key_cache: str
    value_cache: str
    num_heads: int
    num_kv_heads: int
    key_length: int
    value_length: int
    rope_offset: int  # where its cosines and sines begin in a row of the rope table
    rope_dimension: int  # elements of a head that turn; 0 for none
    interleaved: bool

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("qkv",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("query", self.key_cache, self.value_cache))


@dataclass(frozen=True)
class Attention:
    """Causal attention of every row over one chunk of its sequence's keys at a time.

    Leaves per row, head and chunk an unnormalised sum of values with its softmax maximum and sum
    (https://arxiv.org/abs/2205.14135). Query head i reads KV head (first_head + i) // heads_per_kv_head,
    counted from the first KV head that this rank holds.
    """

    key_cache: str
    value_cache: str
    num_heads: int
    num_kv_heads: int
    first_head: int  # of this rank, modulo heads_per_kv_head
    heads_per_kv_head: int
    key_length: int
    value_length: int
    scale: float

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("query", self.key_cache, self.value_cache))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("attention_sums", "attention_scales"))


@dataclass(frozen=True)
class AttentionCombine:
    """attended[row, offset + head * value_length :] = the chunks of Attention put together."""

    num_heads: int
    value_length: int
    output_offset: int

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("attention_sums", "attention_scales"))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("attended",))


@dataclass(frozen=True)
class Activate:
    """output[row, offset + column] = activation(gate) * up, which lie columns apart in gate_up.

    For gates and ups that one gated product can't give, because their types differ. Where it is not gated,
    activation(up) over a divisor of its column.
    """

    columns: int
    output_offset: int
    activation: str
    gated: bool = True
    divisors: str | None = None
    output: str = "activated"

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("gate_up",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output,))


Op = Union[  # noqa: UP007
    SumNorm,
    SumSlice,
    Quantize,
    MatMul,
    HeadNorm,
    RopeCache,
    Attention,
    AttentionCombine,
    Activate,
    Route,
    SharedRoutes,
    ExpertTiles,
    ExpertMatMul,
    ExpertSum,
    RowGate,
]
