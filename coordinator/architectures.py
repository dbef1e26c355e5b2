"""The architectures that are supported, each a row of features; how a file's metadata becomes a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.attention_features import AttentionFeatures, LayerHeads, read_attentions
from coordinator.attention_spec import QueryKeyNorm
from coordinator.file_blocks import count_layers, unused_of_blocks
from coordinator.metadata import MetadataReader
from coordinator.model import (
    BlockSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelError,
    ModelSpec,
    Norm,
    TensorInfo,
)
from coordinator.recurrent import RecurrentFeatures, read_recurrent
from coordinator.recurrent_spec import RecurrentSpec
from coordinator.rope_features import read_rope


@dataclass(frozen=True)
class Architecture:
    """In what an architecture differs from others: one row of the table below."""

    interleaved_rope: bool = False
    has_rope: bool = True
    layers_with_rope: int | None = None  # only a model of so many layers has it
    norm: str = "rms"
    activation: str = "silu"
    gated: bool = True
    head_norm: bool = False  # of queries and keys by their root mean square, before they are turned
    attention: AttentionFeatures = field(default_factory=AttentionFeatures)
    recurrent: RecurrentFeatures | None = None  # of layers that do not attend
    feeds_forward: bool = True
    output_norm: str = "output_norm"
    block: BlockSpec = field(default_factory=BlockSpec)
    widened_embeddings: bool = False  # times the square root of their length
    embedding_norm: str = ""
    position_embeddings: bool = False
    finetuned_means_rope: bool = False  # rope.scaling.finetuned says whether there is any
    parallel_without_norm: bool = False  # of the feed-forward part, which some of its models lack
    divides_logits: bool = False  # by the logit scale, which others multiply by
    logit_softcap: float = 0.0  # where the file says nothing
    unused_tensors: tuple[str, ...] = ()  # which generating text does not need


CLASSIFIER = ("cls.output.weight",)  # of a model that ranks texts
SANDWICHED = BlockSpec(attention_post_norm="post_attention_norm", feed_forward_post_norm="post_ffw_norm")
POST_NORMED = replace(SANDWICHED, attention_norm="", feed_forward_norm="")
POST_ATTENTION = BlockSpec(feed_forward_norm="post_attention_norm")
PARALLEL = BlockSpec(parallel=True, feed_forward_norm="")  # one norm for both parts
OPTIONAL_NORM = AttentionFeatures(norm=QueryKeyNorm("layer"), norm_is_optional=True)
QWEN35 = Architecture(
    head_norm=True,
    attention=AttentionFeatures(gated=True),
    recurrent=RecurrentFeatures("delta", tiled=True),
    block=POST_ATTENTION,
)
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(interleaved_rope=True),
    "mistral3": Architecture(interleaved_rope=True, attention=AttentionFeatures(tempered_with_rope=True)),
    "baichuan": Architecture(
        interleaved_rope=True,
        layers_with_rope=32,
        attention=AttentionFeatures(alibi_bias=8.0, alibi_layers=40),
    ),
    "internlm2": Architecture(interleaved_rope=True),
    "smollm3": Architecture(interleaved_rope=True, attention=AttentionFeatures(rope_period=4)),
    "granite": Architecture(interleaved_rope=True, finetuned_means_rope=True, divides_logits=True),
    "chatglm": Architecture(interleaved_rope=True),
    "glm4": Architecture(interleaved_rope=True, block=SANDWICHED),
    "deepseek2": Architecture(
        interleaved_rope=True, attention=AttentionFeatures(latent=True, tempered_with_rope=True)
    ),
    "mistral4": Architecture(
        interleaved_rope=True, attention=AttentionFeatures(latent=True, tempered_with_rope=True)
    ),
    "qwen2": Architecture(),
    "qwen3": Architecture(head_norm=True, unused_tensors=CLASSIFIER),
    "qwen35": QWEN35,
    "qwen35moe": QWEN35,
    "qwen3next": replace(QWEN35, recurrent=RecurrentFeatures("delta")),
    "seed_oss": Architecture(block=POST_ATTENTION),
    "lfm2": Architecture(
        head_norm=True,
        attention=AttentionFeatures(full_period=0),
        recurrent=RecurrentFeatures("convolution"),
        output_norm="token_embd_norm",
    ),
    "mamba2": Architecture(
        has_rope=False,
        recurrent=RecurrentFeatures("scan"),
        feeds_forward=False,
        block=BlockSpec(feed_forward_norm=""),
    ),
    "exaone4": Architecture(
        head_norm=True,
        block=POST_NORMED,
        attention=AttentionFeatures(full_period=4, window=4096, window_layers=64, full_without_rope=True),
    ),
    "hunyuan-dense": Architecture(attention=AttentionFeatures(norm=QueryKeyNorm(after_rope=True))),
    "gemma": Architecture(activation="gelu", widened_embeddings=True),
    "gemma2": Architecture(
        activation="gelu",
        widened_embeddings=True,
        block=SANDWICHED,
        logit_softcap=30.0,
        attention=AttentionFeatures(full_period=2, window=4096, softcap=50.0, width_scale_layers=46),
    ),
    "gemma3": Architecture(
        activation="gelu",
        widened_embeddings=True,
        block=SANDWICHED,
        head_norm=True,
        attention=AttentionFeatures(
            full_period=6, window_rope_base=10000.0, plain_window_rope=True, width_scale_layers=62
        ),
    ),
    "olmo2": Architecture(
        head_norm=True,
        block=POST_NORMED,
        attention=AttentionFeatures(full_period=4, plain_window_rope=True),
    ),
    "phi2": Architecture(norm="layer", activation="gelu", gated=False, block=PARALLEL),
    "phi3": Architecture(),
    "command-r": Architecture(interleaved_rope=True, norm="layer", block=PARALLEL, attention=OPTIONAL_NORM),
    "cohere2": Architecture(
        interleaved_rope=True,
        norm="layer",
        block=PARALLEL,
        attention=AttentionFeatures(full_period=4, full_without_rope=True),
    ),
    "starcoder2": Architecture(norm="layer", activation="gelu", gated=False),
    "stablelm": Architecture(norm="layer", parallel_without_norm=True, attention=OPTIONAL_NORM),
    "nemotron": Architecture(norm="layer", activation="relu2", gated=False),
    "falcon": Architecture(norm="layer", activation="gelu", gated=False, block=PARALLEL),
    "gptneox": Architecture(norm="layer", activation="gelu", gated=False),
    "gpt2": Architecture(
        has_rope=False,
        norm="layer",
        activation="gelu",
        gated=False,
        position_embeddings=True,
    ),
    "bloom": Architecture(
        has_rope=False,
        norm="layer",
        activation="gelu",
        gated=False,
        embedding_norm="token_embd_norm",
        attention=AttentionFeatures(alibi_bias=8.0),
    ),
    "mpt": Architecture(
        has_rope=False, norm="layer", activation="gelu", gated=False, attention=OPTIONAL_NORM
    ),
}


def model_spec(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> ModelSpec:
    """The spec that a file's metadata describes. Raises ModelError where it can't be run."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ModelError(
            f"the architecture {name!r:.60} is not supported; supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    architecture, read = ARCHITECTURES[name], MetadataReader(metadata, name)
    _refuse_unknown_features(read)
    num_layers, num_blocks = count_layers(read)
    recurrents = read_recurrent(architecture.recurrent, read, num_blocks)[:num_layers]
    heads = _heads(architecture, read, recurrents)
    feed_forwards = _feed_forwards(architecture, read, num_layers, "blk.0.ffn.act.scales" in tensors)
    width = read.integer("embedding_length")
    rope = None
    key_length = next((layer.key_length for layer in heads if layer is not None), 0)
    if architecture.has_rope and key_length:
        interleaved = architecture.interleaved_rope and not read.has("rope.dimension_sections")
        rope = read_rope(read, key_length, interleaved, tensors)
    features = architecture.attention
    if architecture.head_norm and features.norm is None:
        features = replace(features, norm=QueryKeyNorm())
    attentions = read_attentions(features, read, heads, rope, tensors)
    return ModelSpec(
        architecture=name,
        embedding_length=width,
        vocabulary_size=_vocabulary_size(tensors),
        context_length=read.integer("context_length"),
        norm=Norm(architecture.norm, read.number(NORM_EPSILONS[architecture.norm])),
        ropes=attentions.ropes,
        layers=tuple(
            LayerSpec(*parts) for parts in zip(attentions.layers, feed_forwards, recurrents, strict=True)
        ),
        block=_block(architecture, read, tensors),
        embedding_scale=read.number(
            "embedding_scale", width**0.5 if architecture.widened_embeddings else 1.0
        ),
        embedding_norm=architecture.embedding_norm,
        output_norm=architecture.output_norm,
        position_embeddings=_position_embeddings(architecture, tensors),
        logit_scale=_logit_scale(architecture, read),
        logit_softcap=read.number("final_logit_softcapping", architecture.logit_softcap),
        temperature=attentions.temperature,
        unused_tensors=(
            *architecture.unused_tensors,
            *attentions.unused_tensors,
            *unused_of_blocks(tensors, num_layers, num_blocks),
        ),
    )


NORM_EPSILONS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}


def _feed_forwards(
    architecture: Architecture, read: MetadataReader, num_layers: int, has_divisors: bool
) -> list[FeedForwardSpec | None]:
    """One a layer."""
    if not architecture.feeds_forward:
        return [None] * num_layers
    return [
        FeedForwardSpec(length, architecture.activation, architecture.gated, has_divisors)
        for length in read.integers("feed_forward_length", num_layers)
    ]


def _heads(
    architecture: Architecture, read: MetadataReader, recurrents: list[RecurrentSpec | None]
) -> list[LayerHeads | None]:
    """One a layer: its heads, and whether positions turn them; None for recurrent ones."""
    count = len(recurrents)
    if None not in recurrents:
        return [None] * count
    heads = read.integers("attention.head_count", count)
    kv_heads = heads
    if read.has("attention.head_count_kv"):
        kv_heads = read.integers("attention.head_count_kv", count)
    width = read.integer("embedding_length")
    head_length = width // max(heads) if max(heads) > 0 else 0
    key_length = read.integer("attention.key_length", head_length)
    value_length = read.integer("attention.value_length", head_length)
    has_rope = architecture.has_rope and architecture.layers_with_rope in (None, count)
    if architecture.finetuned_means_rope:
        has_rope = read.flag("rope.scaling.finetuned", True)
    return [
        None
        if recurrent is not None
        else LayerHeads(num_heads, num_kv_heads, key_length, value_length, has_rope)
        for num_heads, num_kv_heads, recurrent in zip(heads, kv_heads, recurrents, strict=True)
    ]


def _vocabulary_size(tensors: Mapping[str, TensorInfo]) -> int:
    """The rows of the embedding: metadata may leave the size out, and the tensor can't lie about itself."""
    if "token_embd.weight" not in tensors:
        raise ModelError("the model has no tensor 'token_embd.weight'")
    return tensors["token_embd.weight"].shape[0]


def _block(architecture: Architecture, read: MetadataReader, tensors: Mapping[str, TensorInfo]) -> BlockSpec:
    """The architecture's, changed by what this model has of it."""
    block = replace(architecture.block, residual_scale=read.number("residual_scale", 1.0))
    if "blk.0.attn_norm_2.weight" in tensors:  # falcon's larger ones
        return replace(block, attention_norm="attn_norm_2", feed_forward_norm="attn_norm")
    if read.has("use_parallel_residual"):
        return replace(block, parallel=read.flag("use_parallel_residual"))
    if architecture.parallel_without_norm and f"blk.0.{block.feed_forward_norm}.weight" not in tensors:
        return replace(block, parallel=True, feed_forward_norm="")
    return block


def _position_embeddings(architecture: Architecture, tensors: Mapping[str, TensorInfo]) -> str:
    """Their tensor; models without rope may have them."""
    name = "position_embd.weight"
    optional = not architecture.has_rope and name in tensors
    return name if architecture.position_embeddings or optional else ""


def _logit_scale(architecture: Architecture, read: MetadataReader) -> float:
    scale = read.number("logit_scale", 1.0)
    return 1 / scale if architecture.divides_logits else scale


def _refuse_unknown_features(read: MetadataReader) -> None:
    if read.integer("expert_count", 0):
        raise ModelError(
            f"{read.integer('expert_count')} experts: mixture-of-experts models are not supported"
        )
