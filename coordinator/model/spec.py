"""A model's dimensions and features as frozen data.

Knows no architecture by name (coordinator/architectures/ does), no file format, no device and no split.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from tplaunch.coordinator.model.attention import (
    MAX_HEAD_LENGTH,
    MAX_LATENT_LENGTHS,
    Latent,
    QueryKeyNorm,
    Temperature,
    Window,
)
from tplaunch.coordinator.model.checks import (
    MAX_NUMBER,
    ModelError,
    check_counts,
    check_number,
    exact_quotient,
)
from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.model.rope import RopeSpec


@dataclass(frozen=True)
class Norm:
    """The norm of rows: by their root mean square (rms), or by mean and variance (layer)."""

    kind: str
    epsilon: float

    def __post_init__(self) -> None:
        assert self.kind in ("rms", "layer"), f"a norm of the kind {self.kind!r}"
        check_number("norm epsilon", self.epsilon)


@dataclass(frozen=True)
class AttentionSpec:
    """The attention of one layer."""

    num_heads: int
    num_kv_heads: int
    key_length: int  # elements of one head's query or key
    value_length: int
    scale: float  # of scores
    rope: int | None = 0  # which of the model's; None: positions play no part
    head_norm: QueryKeyNorm | None = None
    window: Window | None = None
    softcap: float = 0.0  # scores become cap * tanh(score / cap); 0 for none
    alibi_bias: float = 0.0  # the largest by which scores fall with distance; 0 for none
    clamp: float = 0.0  # the largest magnitude of queries, keys and values; 0 for any
    sinks: bool = False  # whether each head has a score that takes a part of the softmax and adds nothing
    gated: bool = False  # whether queries come with gates, by whose logistic function outputs are multiplied
    has_temperature: bool = False  # whether the model's grows the queries
    latent: Latent | None = None  # what the only KV head comes of

    def __post_init__(self) -> None:
        check_counts(self, "num_heads", "num_kv_heads", "key_length", "value_length")
        if self.gated and self.key_length != self.value_length:
            raise ModelError(
                f"queries with gates have {self.key_length} elements, but values {self.value_length};"
                " gates are as long as both"
            )
        for limit in ("softcap", "alibi_bias", "clamp"):
            assert 0 <= getattr(self, limit) < MAX_NUMBER, f"a {limit} of {getattr(self, limit)}"
        exact_quotient(self.num_heads, self.num_kv_heads, "the number of attention heads")
        longest = (MAX_HEAD_LENGTH,) * 2 if self.latent is None else MAX_LATENT_LENGTHS
        for name, most in zip(("key_length", "value_length"), longest, strict=True):
            if getattr(self, name) % 4 or getattr(self, name) > most:
                raise ModelError(
                    f"the model's {name} is {getattr(self, name)}; it must be a multiple of 4, at most {most}"
                )
        check_number("attention scale", self.scale)

    @property
    def heads_per_kv_head(self) -> int:
        return self.num_heads // self.num_kv_heads

    @property
    def query_stride(self) -> int:
        """Elements from one head's query to the next: of the query, and of its gate behind it."""
        return self.key_length * (2 if self.gated else 1)


ACTIVATION_FUNCTIONS = ("silu", "gelu", "relu", "relu2")  # of feed-forward layers


@dataclass(frozen=True)
class FeedForwardSpec:
    """The feed-forward network of one layer: down(activation(gate) * up), or down(activation(up))."""

    length: int  # columns between up and down
    activation: str = "silu"
    gated: bool = True
    has_divisors: bool = False  # activations are divided by ffn.act.scales
    suffix: str = ""  # of its tensors' names
    row_gate: str = ""  # the tensor that, times a row, through a logistic function, scales the row's output

    def __post_init__(self) -> None:
        check_counts(self, "length")
        assert self.activation in ACTIVATION_FUNCTIONS, f"the activation {self.activation!r}"


@dataclass(frozen=True)
class LayerSpec:
    """The parts that a layer adds to the residual stream, one after the other; None for one that it has not.

    A feed-forward network beside experts gets the same input, and is added to them.
    """

    attention: AttentionSpec | None
    feed_forward: FeedForwardSpec | None
    recurrent: RecurrentSpec | None = None  # in the place of attention
    experts: ExpertsSpec | None = None

    def __post_init__(self) -> None:
        assert self.attention is None or self.recurrent is None, "a layer with attention and a recurrent part"

    @property
    def has_feed_forward(self) -> bool:
        """Tells whether the layer has a feed-forward network or experts."""
        return self.feed_forward is not None or self.experts is not None


@dataclass(frozen=True)
class BlockSpec:
    """The order of the parts of every layer. Norms are named by their tensors; "" for none.

    What is said of attention holds for a recurrent part, too.
    """

    attention_norm: str = "attn_norm"
    attention_post_norm: str = ""  # of what attention adds to the residual stream
    feed_forward_norm: str = "ffn_norm"
    feed_forward_post_norm: str = ""
    parallel: bool = False  # both parts read what came before the layer; no norm of its own: attention's
    residual_scale: float = 1.0  # of what the parts add


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only transformer as numbers and features. Lengths are in elements, counts in pieces."""

    architecture: str
    embedding_length: int
    vocabulary_size: int
    context_length: int  # positions the model was trained for
    norm: Norm
    ropes: tuple[RopeSpec, ...]
    layers: tuple[LayerSpec, ...]
    block: BlockSpec = field(default_factory=BlockSpec)
    embedding_scale: float = 1.0
    embedding_norm: str = ""  # the tensor, where embeddings are normalised first
    position_embeddings: str = ""  # the tensor that is added to the embeddings, a row a position
    output_norm: str = "output_norm"
    temperature: Temperature | None = None
    logit_scale: float = 1.0
    logit_softcap: float = 0.0  # logits become cap * tanh(logit / cap); 0 for none
    unused_tensors: tuple[str, ...] = ()  # that a file may hold for other purposes than generating text

    def __post_init__(self) -> None:
        check_counts(self, "embedding_length", "vocabulary_size", "context_length")
        exact_quotient(self.embedding_length, 4, "the model's embedding_length")
        if not self.layers:
            raise ModelError("the model has no layers")
        for attention in self.attentions:
            if attention.rope is not None:
                assert 0 <= attention.rope < len(self.ropes), f"rope {attention.rope}"
                _check_rope(self.ropes[attention.rope], attention)
            assert self.temperature or not attention.has_temperature, "no temperature"
        check_number("embedding scale", self.embedding_scale)
        check_number("logit scale", self.logit_scale)
        check_number("residual scale", self.block.residual_scale)
        assert 0 <= self.logit_softcap < MAX_NUMBER, f"a softcap of {self.logit_softcap}"

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def attentions(self) -> tuple[AttentionSpec, ...]:
        """The attention of each layer that has it."""
        return tuple(layer.attention for layer in self.layers if layer.attention is not None)

    @property
    def longest_window(self) -> int:
        """Keys that a row sees at most in layers with a window; 0 where none has."""
        return max((layer.window.length for layer in self.attentions if layer.window), default=0)

    @property
    def feed_forwards(self) -> tuple[FeedForwardSpec, ...]:
        """The feed-forward network of each layer that has one."""
        return tuple(layer.feed_forward for layer in self.layers if layer.feed_forward is not None)

    @functools.cached_property
    def feed_forward_lengths(self) -> dict[str, set[int]]:
        """The lengths that feed-forward networks have, by the suffix of their tensors."""
        lengths: dict[str, set[int]] = {}
        for feed_forward in self.feed_forwards:
            lengths.setdefault(feed_forward.suffix, set()).add(feed_forward.length)
        return lengths

    @property
    def is_recurrent(self) -> bool:
        """Tells whether any layer keeps a state of its sequence."""
        return any(layer.recurrent is not None for layer in self.layers)

    @property
    def experts(self) -> tuple[ExpertsSpec, ...]:
        """The experts of each layer that has them."""
        return tuple(layer.experts for layer in self.layers if layer.experts is not None)

    @property
    def rope_length(self) -> int:
        """Elements of a row of all rope tables, side by side; behind them the temperature."""
        return self.rope_offset(len(self.ropes)) + (self.temperature is not None)

    def rope_offset(self, index: int) -> int:
        """Returns the column at which a rope's table begins in a row of all tables."""
        return sum(rope.dimension for rope in self.ropes[:index])


def _check_rope(rope: RopeSpec, attention: AttentionSpec) -> None:
    if rope.dimension > attention.key_length:
        raise ModelError(
            f"the rope dimension is {rope.dimension}, more than the {attention.key_length} elements of a key"
        )
