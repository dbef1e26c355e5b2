"""The architectures that are supported, each a row of features; how a file's metadata becomes a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.metadata import MetadataReader
from coordinator.model import (
    AttentionSpec,
    BlockSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelError,
    ModelSpec,
    Norm,
    Rope,
    TensorInfo,
)


@dataclass(frozen=True)
class Architecture:
    """In what an architecture differs from others: one row of the table below."""

    interleaved_rope: bool = False
    norm: str = "rms"
    activation: str = "silu"
    gated: bool = True
    head_norm: bool = False
    block: BlockSpec = field(default_factory=BlockSpec)
    unused_tensors: tuple[str, ...] = ()  # which generating text does not need


CLASSIFIER = ("cls.output.weight",)  # of a model that ranks texts
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(interleaved_rope=True),
    "qwen2": Architecture(),
    "qwen3": Architecture(head_norm=True, unused_tensors=CLASSIFIER),
}
ROPE_FACTORS = "rope_freqs.weight"


def model_spec(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> ModelSpec:
    """The spec that a file's metadata describes. Raises ModelError where it can't be run."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ModelError(
            f"the architecture {name!r:.60} is not supported; supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    architecture, read = ARCHITECTURES[name], MetadataReader(metadata, name)
    _refuse_unknown_features(read)
    attentions = _attentions(architecture, read)
    return ModelSpec(
        architecture=name,
        embedding_length=read.integer("embedding_length"),
        vocabulary_size=_vocabulary_size(tensors),
        context_length=read.integer("context_length"),
        norm=Norm(architecture.norm, read.number(NORM_EPSILONS[architecture.norm])),
        ropes=(_rope(architecture, read, attentions[0].key_length, tensors),),
        layers=tuple(
            LayerSpec(attention, FeedForwardSpec(length, architecture.activation, architecture.gated))
            for attention, length in zip(
                attentions, read.integers("feed_forward_length", len(attentions)), strict=True
            )
        ),
        block=architecture.block,
        unused_tensors=architecture.unused_tensors,
    )


NORM_EPSILONS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}
MAX_LAYERS = 10_000  # a damaged file is refused before it costs memory


def _attentions(architecture: Architecture, read: MetadataReader) -> list[AttentionSpec]:
    """One a layer."""
    count = read.integer("block_count")
    if not 0 < count <= MAX_LAYERS:
        raise read.refuse("block_count", count, f"a number from 1 to {MAX_LAYERS}")
    heads = read.integers("attention.head_count", count)
    kv_heads = heads
    if read.has("attention.head_count_kv"):
        kv_heads = read.integers("attention.head_count_kv", count)
    width = read.integer("embedding_length")
    head_length = width // heads[0] if heads[0] > 0 else 0
    key_length = read.integer("attention.key_length", head_length)
    value_length = read.integer("attention.value_length", head_length)
    return [
        AttentionSpec(
            num_heads,
            num_kv_heads,
            key_length,
            value_length,
            scale=key_length**-0.5 if key_length > 0 else 0,
            head_norm=architecture.head_norm,
        )
        for num_heads, num_kv_heads in zip(heads, kv_heads, strict=True)
    ]


def _vocabulary_size(tensors: Mapping[str, TensorInfo]) -> int:
    """The rows of the embedding: metadata may leave the size out, and the tensor can't lie about itself."""
    if "token_embd.weight" not in tensors:
        raise ModelError("the model has no tensor 'token_embd.weight'")
    return tensors["token_embd.weight"].shape[0]


def _rope(
    architecture: Architecture, read: MetadataReader, key_length: int, tensors: Mapping[str, TensorInfo]
) -> Rope:
    return Rope(
        dimension=read.integer("rope.dimension_count", key_length),
        base=read.number("rope.freq_base", 10000.0),
        scale=_linear_rope_scale(read),
        interleaved=architecture.interleaved_rope,
        factors=ROPE_FACTORS if ROPE_FACTORS in tensors else "",
    )


def _linear_rope_scale(read: MetadataReader) -> float:
    kind = read.text("rope.scaling.type", "none")
    if kind == "none":
        return 1.0 / read.number("rope.scale_linear", 1.0)
    if kind == "linear":
        return 1.0 / read.number("rope.scaling.factor", 1.0)
    raise ModelError(f"rope scaling of type {kind!r} is not supported; supported: none, linear")


def _refuse_unknown_features(read: MetadataReader) -> None:
    if read.integer("expert_count", 0):
        raise ModelError(
            f"{read.integer('expert_count')} experts: mixture-of-experts models are not supported"
        )
    if read.integer("attention.sliding_window", 0):
        raise ModelError("sliding-window attention is not supported")
