"""Well-known models as numbers alone: to measure how fast one would run without its weights.

Only shapes of supported architectures stand here; `tiny` is no model, but a quick thing for tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from coordinator.model import ARCHITECTURES, ModelSpec, Rope, TensorInfo
from coordinator.weight_types import WEIGHT_TYPES


@dataclass(frozen=True)
class Shape:
    """A model's dimensions, and whether the embedding serves as the output matrix too."""

    spec: ModelSpec
    tied: bool = False


def _llama(
    num_layers: int, width: int, heads: tuple[int, int], ffn: int, vocabulary: int, *, rope_base: float
) -> ModelSpec:
    """heads: query heads and KV heads."""
    length = width // heads[0]
    return ModelSpec(
        architecture="llama",
        num_layers=num_layers,
        embedding_length=width,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        key_length=length,
        value_length=length,
        feed_forward_length=ffn,
        vocabulary_size=vocabulary,
        context_length=131072,
        norm_epsilon=1e-5,
        rope=Rope(length, rope_base, 1.0, ARCHITECTURES["llama"].interleaved_rope),
    )


SHAPES: dict[str, Shape] = {
    "tiny": Shape(_llama(2, 64, (4, 2), 160, 256, rope_base=1e4)),
    "llama-160m": Shape(_llama(12, 768, (12, 4), 2048, 32000, rope_base=1e4)),
    "llama-3.2-1b": Shape(_llama(16, 2048, (32, 8), 8192, 128256, rope_base=5e5), tied=True),
    "llama-3.1-8b": Shape(_llama(32, 4096, (32, 8), 14336, 128256, rope_base=5e5)),
    "llama-3.3-70b": Shape(_llama(80, 8192, (64, 8), 28672, 128256, rope_base=5e5)),
}


def shape_tensors(shape: Shape, weight_type: str) -> dict[str, TensorInfo]:
    """The tensor table that a file of this shape would have: matrices of the type, vectors in F32."""
    spec = shape.spec
    width, ffn, vocabulary = spec.embedding_length, spec.feed_forward_length, spec.vocabulary_size
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width)}
    layer_shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (width,),
        "attn_q": (spec.num_heads * spec.key_length, width),
        "attn_k": (spec.num_kv_heads * spec.key_length, width),
        "attn_v": (spec.num_kv_heads * spec.value_length, width),
        "attn_output": (width, spec.num_heads * spec.value_length),
        "ffn_norm": (width,),
        "ffn_gate": (ffn, width),
        "ffn_up": (ffn, width),
        "ffn_down": (width, ffn),
    }
    for layer in range(spec.num_layers):
        shapes |= {f"blk.{layer}.{name}.weight": size for name, size in layer_shapes.items()}
    shapes["output_norm.weight"] = (width,)
    if not shape.tied:
        shapes["output.weight"] = (vocabulary, width)
    return {
        name: _tensor(name, "F32" if len(size) == 1 else weight_type, size) for name, size in shapes.items()
    }


def _tensor(name: str, weight_type: str, shape: tuple[int, ...]) -> TensorInfo:
    nbytes = math.prod(shape[:-1]) * WEIGHT_TYPES[weight_type].row_bytes(shape[-1])
    return TensorInfo(name, weight_type, shape, 0, nbytes)
