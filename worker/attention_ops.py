"""The operations of attention, from queries, keys and values to what each head makes of them, as frozen data.

What each computes is defined by worker/numpy_attention.py; shaders/ holds the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass


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
        """Of the slopes' logarithms to the base 2, from head to head."""
        return self.max_bias / self.whole_steps

    def slopes(self, num_heads: int) -> list[float]:
        """Of this rank's heads."""
        heads = range(self.first_head, self.first_head + num_heads)
        return [
            2 ** (-self.step * (head + 1 if head < self.whole_steps else head - self.whole_steps + 0.5))
            for head in heads
        ]


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
    scale: float  # of scores
    window: int = 0  # keys that a row sees, itself among them; 0 for all before it
    chunked: bool = False  # the window does not slide: a row sees the keys since the last multiple of it
    softcap: float = 0.0  # scores become cap * tanh(score / cap); 0 for none
    alibi: Alibi | None = None

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("query", self.key_cache, self.value_cache))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("attention_sums", "attention_scales"))


@dataclass(frozen=True)
class AttentionCombine:
    """attended[row, offset + head * value_length :] = the chunks of Attention put together.

    Sinks are a score for each head that takes a part of the softmax and adds nothing.
    """

    num_heads: int
    value_length: int
    output_offset: int
    sinks: str | None = None  # [num_heads]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(("attention_sums", "attention_scales"))

    @property
    def writes(self) -> frozenset[str]:
        return frozenset(("attended",))
