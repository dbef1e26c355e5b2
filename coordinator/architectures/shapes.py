"""Well-known models as numbers alone: to measure how fast one would run without its weights.

Only shapes of supported architectures stand here; `tiny` is no model, but a quick thing for tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tplaunch.coordinator.architectures.described_shapes import GEMMA_3_270M, QWEN_3_5_800M
from tplaunch.coordinator.architectures.reader import model_spec
from tplaunch.coordinator.architectures.table import ARCHITECTURES
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.model.attention import Latent
from tplaunch.coordinator.model.experts import ExpertsSpec
from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.model.rope import RopeSpec
from tplaunch.coordinator.model.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, Norm
from tplaunch.coordinator.split.model_shards import layer_norms


@dataclass(frozen=True)
class Shape:
    """A model's dimensions, and whether the embedding serves as the output matrix too."""

    spec: ModelSpec
    tied: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)  # of which the spec was made, if it was


def _spec(
    architecture: str,
    num_layers: int,
    width: int,
    heads: tuple[int, int],
    ffn: int | ExpertsSpec,
    vocabulary: int,
    *,
    rope_base: float,
    head_length: int = 0,
    epsilon: float = 1e-5,
    context: int = 131072,
) -> ModelSpec:
    """heads: query heads and KV heads, of head_length or of the width divided among them.

    ffn: the columns of a feed-forward network, or experts.
    """
    features = ARCHITECTURES[architecture]
    length = head_length or width // heads[0]
    attention = AttentionSpec(*heads, length, length, length**-0.5, head_norm=features.attention.norm)
    if isinstance(ffn, ExpertsSpec):
        layer = LayerSpec(attention, None, experts=ffn)
    else:
        layer = LayerSpec(attention, FeedForwardSpec(ffn, features.activation, features.gated))
    return ModelSpec(
        architecture=architecture,
        embedding_length=width,
        vocabulary_size=vocabulary,
        context_length=context,
        norm=Norm(features.norm, epsilon),
        ropes=(RopeSpec(length, rope_base, 1.0, features.interleaved_rope),),
        layers=(layer,) * num_layers,
        block=features.block,
    )


def _qwen3(
    architecture: str, num_layers: int, width: int, heads: tuple[int, int], ffn: int | ExpertsSpec
) -> ModelSpec:
    return _spec(
        architecture, num_layers, width, heads, ffn, 151936,
        rope_base=1e6, head_length=128, epsilon=1e-6, context=40960,
    )  # fmt: skip


def described(architecture: str, vocabulary: int, keys: Mapping[str, Any]) -> Shape:
    """A model whose layers are not alike, by the metadata of its file. Its embedding is its output matrix."""
    metadata = {"general.architecture": architecture, **{f"{architecture}.{k}": v for k, v in keys.items()}}
    embedding = TensorInfo("token_embd.weight", "F32", (vocabulary, keys["embedding_length"]), 0, 0)
    return Shape(model_spec(metadata, {embedding.name: embedding}), tied=True, metadata=metadata)


SHAPES: dict[str, Shape] = {
    "tiny": Shape(_spec("llama", 2, 64, (4, 2), 160, 256, rope_base=1e4)),
    "llama-160m": Shape(_spec("llama", 12, 768, (12, 4), 2048, 32000, rope_base=1e4)),
    "llama-3.2-1b": Shape(_spec("llama", 16, 2048, (32, 8), 8192, 128256, rope_base=5e5), tied=True),
    "llama-3.1-8b": Shape(_spec("llama", 32, 4096, (32, 8), 14336, 128256, rope_base=5e5)),
    "llama-3.3-70b": Shape(_spec("llama", 80, 8192, (64, 8), 28672, 128256, rope_base=5e5)),
    "qwen3-0.6b": Shape(_qwen3("qwen3", 28, 1024, (16, 8), 3072), tied=True),
    "tiny-moe": Shape(
        _spec("qwen3moe", 2, 64, (4, 2), ExpertsSpec(8, 2, 96, normalised=True), 256, rope_base=1e4)
    ),
    "gemma-3-270m": described("gemma3", 262144, GEMMA_3_270M),
    "qwen3.5-0.8b": described("qwen35", 248320, QWEN_3_5_800M),
    "qwen3-30b-a3b": Shape(_qwen3("qwen3moe", 48, 2048, (32, 4), ExpertsSpec(128, 8, 768, normalised=True))),
}


def shape_tensors(shape: Shape, weight_type: str) -> dict[str, TensorInfo]:
    """The tensor table that a file of this shape would have: routers and vectors are in F32."""
    return {
        name: _tensor(
            name, "F32" if len(size) == 1 or any(kind in name for kind in FLOATS) else weight_type, size
        )
        for name, size in tensor_shapes(shape.spec, tied=shape.tied).items()
    }


ROUTER, CONVOLUTION = "ffn_gate_inp", "ssm_conv1d"
FLOATS = (ROUTER, CONVOLUTION)  # matrices that files have in F32


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
        if layer.experts is not None:
            parts |= _experts_shapes(layer.experts, width)
        shapes |= {f"blk.{index}.{name}.weight": size for name, size in parts.items()}
        if layer.recurrent is not None:
            recurrent = _delta_shapes(layer.recurrent, width)
            shapes |= {f"blk.{index}.{name}": size for name, size in recurrent.items()}
    shapes["output_norm.weight"] = (width,)
    shapes |= {
        rope.frequency_factors: (rope.dimension // 2,) for rope in spec.ropes if rope.frequency_factors
    }
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


def _delta_shapes(recurrent: RecurrentSpec, width: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes by the tensors' whole names."""
    assert recurrent.kind == "delta", f"no shapes of a {recurrent.kind}"
    inner, heads = recurrent.inner_length, recurrent.num_heads
    channels = 2 * recurrent.num_groups * recurrent.state_length + inner
    return {
        "attn_qkv.weight": (channels, width),
        "attn_gate.weight": (inner, width),
        "ssm_alpha.weight": (heads, width),
        "ssm_beta.weight": (heads, width),
        f"{CONVOLUTION}.weight": (channels, recurrent.kernel),
        "ssm_a": (heads,),
        "ssm_dt.bias": (heads,),
        "ssm_norm.weight": (recurrent.head_length,),
        "ssm_out.weight": (width, inner),
    }


def _feed_forward_shapes(feed_forward: FeedForwardSpec, width: int) -> dict[str, tuple[int, ...]]:
    suffix = feed_forward.suffix
    shapes: dict[str, tuple[int, ...]] = {
        f"ffn_up{suffix}": (feed_forward.length, width),
        f"ffn_down{suffix}": (width, feed_forward.length),
    }
    if feed_forward.gated:
        shapes[f"ffn_gate{suffix}"] = shapes[f"ffn_up{suffix}"]
    if feed_forward.row_gate:
        shapes[feed_forward.row_gate.removesuffix(".weight")] = (width,)
    return shapes


def _experts_shapes(experts: ExpertsSpec, width: int) -> dict[str, tuple[int, ...]]:
    inwards, outwards = (experts.count, experts.length, width), (experts.count, width, experts.length)
    return {
        ROUTER: (experts.count, width),
        "ffn_gate_exps": inwards,
        "ffn_up_exps": inwards,
        "ffn_down_exps": outwards,
    }


def _tensor(name: str, weight_type: str, shape: tuple[int, ...]) -> TensorInfo:
    nbytes = math.prod(shape[:-1]) * WEIGHT_TYPES[weight_type].row_bytes(shape[-1])
    return TensorInfo(name, weight_type, shape, 0, nbytes)
