"""The architectures that are supported, each a row of features; how a file's metadata becomes a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.expert_features import ExpertFeatures, feed_forward_parts
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
    head_norm: bool = False
    block: BlockSpec = field(default_factory=BlockSpec)
    experts: ExpertFeatures | None = None  # where it can have any
    widened_embeddings: bool = False  # times the square root of their length
    embedding_norm: str = ""
    position_embeddings: bool = False
    finetuned_means_rope: bool = False  # rope.scaling.finetuned says whether there is any
    parallel_without_norm: bool = False  # of the feed-forward part, which some of its models lack
    divides_logits: bool = False  # by the logit scale, which others multiply by
    logit_softcap: float = 0.0  # where the file says nothing
    unused_tensors: tuple[str, ...] = ()  # which generating text does not need
    unused_in_layers: tuple[str, ...] = ()  # which llama.cpp reads and leaves out, too


CLASSIFIER = ("cls.output.weight",)  # of a model that ranks texts
SANDWICHED = BlockSpec(attention_post_norm="post_attention_norm", feed_forward_post_norm="post_ffw_norm")
POST_NORMED = replace(SANDWICHED, attention_norm="", feed_forward_norm="")
PARALLEL = BlockSpec(parallel=True, feed_forward_norm="")  # one norm for both parts
NORMALISED = ExpertFeatures(normalised=True)
WITH_ROW_GATE = ExpertFeatures(row_gate="ffn_gate_inp_shexp.weight")
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(interleaved_rope=True, experts=NORMALISED),
    "mistral3": Architecture(interleaved_rope=True),
    "baichuan": Architecture(interleaved_rope=True, layers_with_rope=32),
    "internlm2": Architecture(interleaved_rope=True),
    "smollm3": Architecture(interleaved_rope=True),
    "granite": Architecture(interleaved_rope=True, finetuned_means_rope=True, divides_logits=True),
    "chatglm": Architecture(interleaved_rope=True),
    "glm4": Architecture(interleaved_rope=True, block=SANDWICHED),
    "qwen2": Architecture(),
    "qwen3": Architecture(head_norm=True, unused_tensors=CLASSIFIER),
    "seed_oss": Architecture(block=BlockSpec(feed_forward_norm="post_attention_norm")),
    "exaone4": Architecture(head_norm=True, block=POST_NORMED),
    "hunyuan-dense": Architecture(head_norm=True),
    "gemma": Architecture(activation="gelu", widened_embeddings=True),
    "gemma2": Architecture(activation="gelu", widened_embeddings=True, block=SANDWICHED, logit_softcap=30.0),
    "gemma3": Architecture(activation="gelu", widened_embeddings=True, block=SANDWICHED, head_norm=True),
    "olmo2": Architecture(block=POST_NORMED),
    "phi2": Architecture(norm="layer", activation="gelu", gated=False, block=PARALLEL),
    "phi3": Architecture(),
    "command-r": Architecture(interleaved_rope=True, norm="layer", block=PARALLEL),
    "cohere2": Architecture(interleaved_rope=True, norm="layer", block=PARALLEL),
    "starcoder2": Architecture(norm="layer", activation="gelu", gated=False),
    "stablelm": Architecture(norm="layer", parallel_without_norm=True),
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
        has_rope=False, norm="layer", activation="gelu", gated=False, embedding_norm="token_embd_norm"
    ),
    "qwen2moe": Architecture(experts=WITH_ROW_GATE),
    "qwen3moe": Architecture(head_norm=True, experts=NORMALISED),
    "granitemoe": Architecture(
        interleaved_rope=True, finetuned_means_rope=True, divides_logits=True, experts=NORMALISED
    ),
    "phimoe": Architecture(experts=NORMALISED),
    "dots1": Architecture(head_norm=True, experts=ExpertFeatures()),
    "glm4moe": Architecture(
        head_norm=True,
        block=BlockSpec(feed_forward_norm="post_attention_norm"),
        experts=ExpertFeatures(gating="sigmoid"),
    ),
    "bailingmoe2": Architecture(head_norm=True, experts=ExpertFeatures(gating="sigmoid")),
    "ernie4_5-moe": Architecture(
        interleaved_rope=True, experts=NORMALISED, unused_in_layers=("attn_output.bias",)
    ),
    "mpt": Architecture(has_rope=False, norm="layer", activation="gelu", gated=False),
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
    attentions = _attentions(architecture, read)
    width = read.integer("embedding_length")
    has_divisors = "blk.0.ffn.act.scales" in tensors
    dense = [
        FeedForwardSpec(length, architecture.activation, architecture.gated, has_divisors)
        for length in read.integers("feed_forward_length", len(attentions))
    ]
    ropes: tuple[Rope, ...] = ()
    if architecture.has_rope:
        interleaved = architecture.interleaved_rope and not read.has("rope.dimension_sections")
        ropes = (read_rope(read, attentions[0].key_length, interleaved, tensors),)
    return ModelSpec(
        architecture=name,
        embedding_length=width,
        vocabulary_size=_vocabulary_size(tensors),
        context_length=read.integer("context_length"),
        norm=Norm(architecture.norm, read.number(NORM_EPSILONS[architecture.norm])),
        ropes=ropes,
        layers=tuple(
            LayerSpec(attention, *parts)
            for attention, parts in zip(
                attentions, feed_forward_parts(architecture.experts, read, dense, tensors), strict=True
            )
        ),
        block=_block(architecture, read, tensors),
        embedding_scale=read.number(
            "embedding_scale", width**0.5 if architecture.widened_embeddings else 1.0
        ),
        embedding_norm=architecture.embedding_norm,
        position_embeddings=_position_embeddings(architecture, tensors),
        logit_scale=_logit_scale(architecture, read),
        logit_softcap=read.number("final_logit_softcapping", architecture.logit_softcap),
        unused_tensors=(*architecture.unused_tensors, *_unused_in_layers(architecture, read, tensors)),
    )


NORM_EPSILONS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}
MAX_LAYERS = 10_000  # a damaged file is refused before it costs memory


def _attentions(architecture: Architecture, read: MetadataReader) -> list[AttentionSpec]:
    """One a layer."""
    count = _num_layers(read)
    heads = read.integers("attention.head_count", count)
    kv_heads = heads
    if read.has("attention.head_count_kv"):
        kv_heads = read.integers("attention.head_count_kv", count)
    width = read.integer("embedding_length")
    head_length = width // heads[0] if heads[0] > 0 else 0
    key_length = read.integer("attention.key_length", head_length)
    value_length = read.integer("attention.value_length", head_length)
    has_rope = architecture.has_rope and architecture.layers_with_rope in (None, count)
    if architecture.finetuned_means_rope:
        has_rope = read.flag("rope.scaling.finetuned", True)
    return [
        AttentionSpec(
            num_heads,
            num_kv_heads,
            key_length,
            value_length,
            scale=key_length**-0.5 if key_length > 0 else 0,
            rope=0 if has_rope else None,
            head_norm=architecture.head_norm,
        )
        for num_heads, num_kv_heads in zip(heads, kv_heads, strict=True)
    ]


def _num_layers(read: MetadataReader) -> int:
    """Less those behind the last one that only predict further tokens."""
    count = read.integer("block_count")
    if not 0 < count <= MAX_LAYERS:
        raise read.refuse("block_count", count, f"a number from 1 to {MAX_LAYERS}")
    predictors = read.integer(PREDICTORS, 0)
    if not 0 <= predictors < count:
        raise read.refuse(PREDICTORS, predictors, f"a number below the {count} layers")
    return count - predictors


PREDICTORS = "nextn_predict_layers"


def _unused_in_layers(
    architecture: Architecture, read: MetadataReader, tensors: Mapping[str, TensorInfo]
) -> list[str]:
    """What layers have for no use, and all of the layers that only predict further tokens."""
    count, total = _num_layers(read), read.integer("block_count")
    behind = tuple(f"blk.{layer}." for layer in range(count, total))
    named = {f"blk.{layer}.{name}" for layer in range(count) for name in architecture.unused_in_layers}
    return [name for name in tensors if name in named or name.startswith(behind)]


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
    if read.integer("attention.sliding_window", 0):
        raise ModelError("sliding-window attention is not supported")
