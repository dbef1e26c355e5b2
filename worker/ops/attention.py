"""The operations of attention, from queries, keys and values to what each head makes of them, as frozen data.

What each computes is defined by worker/numpy/attention.py; shaders/ holds the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionHeads:
    """A row of qkv: all query heads and what lies between them, all key heads, then all value heads."""

    num_heads: int
    num_kv_heads: int
    key_length: int
    query_stride: int  # elements from one query head to the next

    @property
    def first_key(self) -> int:
        return self.num_heads * self.query_stride

    @property
    def first_value(self) -> int:
        return self.first_key + self.num_kv_heads * self.key_length


class InPlace:
    """The buffers of operations that change qkv and nothing else."""

    reads: frozenset[str] = frozenset(("qkv",))
    writes: frozenset[str] = frozenset(("qkv",))


@dataclass(frozen=True)
class Clamp(InPlace):
    """Elements of the first columns of qkv become at most `limit`, and at least -limit."""

    columns: int
    limit: float


@dataclass(frozen=True)
class HeadSums:
    """partials[parity, own slot, row] = sum and sum of squares of all queries, then of all keys.

    For a norm over all heads of all ranks. A first key head that the rank before has too is counted there.
    """

    heads: AttentionHeads
    skips_first_key: bool
    parity: int

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("qkv",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("partials",))


HEAD_SUMS = 4  # that a row has


@dataclass(frozen=True)
class RowSums:
    """The all-reduced sums of HeadSums, for rows of `query_length` and `key_length` elements."""

    parity: int
    query_length: int
    key_length: int


@dataclass(frozen=True)
class HeadNorm:
    """Normalises query heads and key heads in a row, in place: each by itself, or as its row's sums say.

    Weights are [length], the same for each head of a kind, or [heads, weight_stride], longer than they need.
    """

    heads: AttentionHeads
    epsilon: float
    query_weight: str | None  # None for no weights
    key_weight: str | None
    kind: str = "rms"  # or layer
    weight_stride: int = 0  # elements from one head's weights to the next one's; 0 where they share them
    query_bias: str | None = None
    key_bias: str | None = None
    sums: RowSums | None = None
    buffer: str = "qkv"
    offset: int = 0  # of the first head in a row

    @property
    def reads(self) -> frozenset[str]:
        return frozenset((self.buffer,) if self.sums is None else (self.buffer, "partials"))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.buffer,))


@dataclass(frozen=True)
class Rotation:
    """The elements of a head that rotate, and where a row of the rope table has their cosines and sines."""

    offset: int = 0  # in the table
    dimension: int = 0  # elements that rotate; 0 for none
    interleaved: bool = False
    start: int = 0  # the first element of a head that rotates


@dataclass(frozen=True)
class Rotate(InPlace):
    """Rotates queries and keys in qkv, in place, where a norm comes between that and the cache."""

    heads: AttentionHeads
    rotation: Rotation


@dataclass(frozen=True)
class RopeCache:
    """Rotates queries and keys by the step's rope table; writes keys, and values, to the layer's cache."""

    key_cache: str
    value_cache: str
    heads: AttentionHeads
    value_length: int  # 0 where values are parts of keys
    rotation: Rotation
    temperature: int | None = None  # where in a row of the rope table is the factor of queries
    windowed: bool = False  # whether the cache is of the pool of layers with a window

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("qkv",))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("query", self.key_cache, self.value_cache))

    @property
    def value_in_key(self) -> bool:
        """Tells if there are no values to be written."""
        return self.value_cache == self.key_cache

    @property
    def num_kv_heads(self) -> int:
        return self.heads.num_kv_heads

    @property
    def key_length(self) -> int:
        return self.heads.key_length


@dataclass(frozen=True)
class Alibi:
    """Scores fall with the distance of a key, steeper for the first heads (https://arxiv.org/abs/2108.12409)."""

    max_bias: float
    first_head: int  # of this rank, among all
    num_heads: int  # of all ranks

    @property
    def whole_steps(self) -> int:
        """Heads whose slopes are whole steps apart: a power of two. Those of the others lie between them."""
        return 1 << (self.num_heads.bit_length() - 1)

    @property
    def step(self) -> float:
        """The difference of the slopes' logarithms to the base 2, from head to head."""
        return self.max_bias / self.whole_steps

    def slopes(self, num_heads: int) -> list[float]:
        """Returns the slopes of this rank's heads."""
        heads = range(self.first_head, self.first_head + num_heads)
        return [
            2 ** (-self.step * (head + 1 if head < self.whole_steps else head - self.whole_steps + 0.5))
            for head in heads
        ]


@dataclass(frozen=True)
class AttentionCombine:
    """output[row, offset + head * value_length :] = the chunks of Attention put together.

    Sinks are a score for each head that takes a part of the softmax and adds nothing.
    """

    num_heads: int
    value_length: int
    output_offset: int
    sinks: str | None = None  # [num_heads]
    gated: bool = False  # times the logistic function of what follows each head's query in qkv, as long as it
    output: str = "attended"

    @property
    def reads(self) -> frozenset[str]:
        sums = frozenset(("attention_sums", "attention_scales"))
        return sums | {"qkv"} if self.gated else sums

    @property
    def writes(self) -> frozenset[str]:
        return frozenset((self.output,))


# The lengths that shaders/attend_matrices.slang fills heads up to, the elements of a word of the cache there,
# the types that it reads, and the query vectors of a workgroup.
MATRIX_HEADS, MATRIX_WORD, MATRIX_KV_TYPES, MATRIX_VECTORS = (64, 128, 256), 8, ("f16", "q8_0"), 64


def fits_matrices(key_length: int, value_length: int) -> bool:
    """Tells if attention with heads of these lengths can be computed by matrices of float16."""
    whole_words = key_length % MATRIX_WORD == value_length % MATRIX_WORD == 0
    return whole_words and max(key_length, value_length) <= MATRIX_HEADS[-1]


@dataclass(frozen=True)
class Attention:
    """Causal attention of every row over one chunk of its sequence's keys at a time.

    Leaves per row, head and chunk an unnormalised sum of values with its softmax maximum and sum
    (https://arxiv.org/abs/2205.14135). Query head i reads KV head (first_head + i) // heads_per_kv_head,
    counted from the first KV head that this rank holds. Where all rows have one chunk it may do at once what
    AttentionCombine does.
    """

    key_cache: str
    value_cache: str
    num_heads: int
    num_kv_heads: int
    first_head: int  # of this rank, modulo heads_per_kv_head
    heads_per_kv_head: int
    key_length: int
    value_length: int
    scale: float  # of scores
    window: int = 0  # keys that a row sees, itself among them; 0 for all before it
    chunked: bool = False  # the window does not slide: a row sees the keys since the last multiple of it
    softcap: float = 0.0  # scores become cap * tanh(score / cap); 0 for none
    alibi: Alibi | None = None
    finish: AttentionCombine | None = None  # one that is not gated
    activations: str = "f32"  # or f16: queries, keys, the softmax's weights and values, for matrices

    @property
    def value_in_key(self) -> bool:
        """Tells if the cache has no values: they are the first elements of keys."""
        return self.value_cache == self.key_cache

    @property
    def windowed(self) -> bool:
        """Tells if the cache is in the pool of layers with a window."""
        return self.window > 0

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("query", self.key_cache, self.value_cache))

    @property
    def writes(self) -> frozenset[str]:
        sums = frozenset(("attention_sums", "attention_scales"))
        return sums if self.finish is None else sums | self.finish.writes
