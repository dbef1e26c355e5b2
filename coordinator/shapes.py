"""Well-known models as numbers alone: to measure how fast one would run without its weights.

Only shapes of supported architectures stand here; `tiny` is no model, but a quick thing for tests.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from coordinator.architectures import ARCHITECTURES
from coordinator.attention_spec import Latent, QueryKeyNorm
from coordinator.model import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, Norm, Rope, TensorInfo
from coordinator.shards import layer_norms
from coordinator.weight_types import WEIGHT_TYPES


@dataclass(frozen=True)
class Shape:
    """A model's dimensions, and whether the embedding serves as the output matrix too."""

    spec: ModelSpec
    tied: bool = False


def _dense(
    architecture: str,
    num_layers: int,
    width: int,
    heads: tuple[int, int],
    ffn: int,
    vocabulary: int,
    *,
    rope_base: float,
    head_length: int = 0,
    epsilon: float = 1e-5,
) -> ModelSpec:
    """heads: query heads and KV heads, of head_length or of the width divided among them."""
    features = ARCHITECTURES[architecture]
    length = head_length or width // heads[0]
    norm = QueryKeyNorm() if features.head_norm else None
    layer = LayerSpec(
        AttentionSpec(*heads, length, length, length**-0.5, head_norm=norm),
        FeedForwardSpec(ffn, features.activation, features.gated),
    )
    return ModelSpec(
        architecture=architecture,
        embedding_length=width,
        vocabulary_size=vocabulary,
        context_length=131072,
        norm=Norm(features.norm, epsilon),
        ropes=(Rope(length, rope_base, 1.0, features.interleaved_rope),),
        layers=(layer,) * num_layers,
        block=features.block,
    )


def _qwen3(num_layers: int, width: int, heads: tuple[int, int], ffn: int, *, context: int) -> ModelSpec:
    spec = _dense(
        "qwen3", num_layers, width, heads, ffn, 151936, rope_base=1e6, head_length=128, epsilon=1e-6
    )
    return dataclasses.replace(spec, context_length=context)


SHAPES: dict[str, Shape] = {
    "tiny": Shape(_dense("llama", 2, 64, (4, 2), 160, 256, rope_base=1e4)),
    "llama-160m": Shape(_dense("llama", 12, 768, (12, 4), 2048, 32000, rope_base=1e4)),
    "llama-3.2-1b": Shape(_dense("llama", 16, 2048, (32, 8), 8192, 128256, rope_base=5e5), tied=True),
    "llama-3.1-8b": Shape(_dense("llama", 32, 4096, (32, 8), 14336, 128256, rope_base=5e5)),
    "llama-3.3-70b": Shape(_dense("llama", 80, 8192, (64, 8), 28672, 128256, rope_base=5e5)),
    "qwen3-0.6b": Shape(_qwen3(28, 1024, (16, 8), 3072, context=40960), tied=True),
}


def shape_tensors(shape: Shape, weight_type: str) -> dict[str, TensorInfo]:
    """The tensor table that a file of this shape would have: matrices of the type, vectors in F32."""
    return {
        name: _tensor(name, "F32" if len(size) == 1 else weight_type, size)
        for name, size in tensor_shapes(shape.spec, tied=shape.tied).items()
    }


def tensor_shapes(spec: ModelSpec, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
    """Every tensor that a model of these features has, less biases, by name; rows first."""
    width = spec.embedding_length
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (spec.vocabulary_size, width)}
    for index, layer in enumerate(spec.layers):
        parts: dict[str, tuple[int, ...]] = dict.fromkeys(layer_norms(spec), (width,))
        if layer.attention is not None:
            parts |= _attention_shapes(layer.attention, width)
        if layer.feed_forward is not None:
            parts |= _feed_forward_shapes(layer.feed_forward, width)
        shapes |= {f"blk.{index}.{name}.weight": size for name, size in parts.items()}
    shapes["output_norm.weight"] = (width,)
    shapes |= {rope.factors: (rope.dimension // 2,) for rope in spec.ropes if rope.factors}
    if not tied:
        shapes["output.weight"] = (spec.vocabulary_size, width)
    return shapes


def _attention_shapes(attention: AttentionSpec, width: int) -> dict[str, tuple[int, ...]]:
    if attention.latent is not None:
        return _latent_shapes(attention, attention.latent, width)
    key_length, value_length = attention.key_length, attention.value_length
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q": (attention.num_heads * attention.query_stride, width),
        "attn_k": (attention.num_kv_heads * key_length, width),
        "attn_v": (attention.num_kv_heads * value_length, width),
        "attn_output": (width, attention.num_heads * value_length),
    }
    norm = attention.head_norm
    if norm is not None and norm.weighted:
        for kind, heads in (("q", attention.num_heads), ("k", attention.num_kv_heads)):
            sizes = {"head": (key_length,), "heads": (heads, key_length), "row": (heads * key_length,)}
            shapes[f"attn_{kind}_norm"] = sizes[norm.span]
    if attention.sinks:
        shapes["attn_sinks"] = (attention.num_heads,)
    return shapes


def _latent_shapes(attention: AttentionSpec, latent: Latent, width: int) -> dict[str, tuple[int, ...]]:
    count, query_length = attention.num_heads, attention.num_heads * latent.query_length
    shapes: dict[str, tuple[int, ...]] = {
        "attn_kv_a_mqa": (attention.key_length, width),
        "attn_kv_a_norm": (latent.rank,),
        "attn_k_b": (count, latent.rank, latent.nope_length),
        "attn_v_b": (count, latent.value_length, latent.rank),
        "attn_output": (width, count * latent.value_length),
    }
    if not latent.query_rank:
        return shapes | {"attn_q": (query_length, width)}
    return shapes | {
        "attn_q_a": (latent.query_rank, width),
        "attn_q_a_norm": (latent.query_rank,),
        "attn_q_b": (query_length, latent.query_rank),
    }


def _feed_forward_shapes(feed_forward: FeedForwardSpec, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "ffn_up": (feed_forward.length, width),
        "ffn_down": (width, feed_forward.length),
    }
    if feed_forward.gated:
        shapes["ffn_gate"] = shapes["ffn_up"]
    return shapes


def _tensor(name: str, weight_type: str, shape: tuple[int, ...]) -> TensorInfo:
    nbytes = math.prod(shape[:-1]) * WEIGHT_TYPES[weight_type].row_bytes(shape[-1])
    return TensorInfo(name, weight_type, shape, 0, nbytes)
