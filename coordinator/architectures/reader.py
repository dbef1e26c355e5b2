"""Makes a spec from a file's metadata, and from the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tplaunch.coordinator.architectures.attention import LayerHeads, read_attentions
from tplaunch.coordinator.architectures.blocks import count_layers, unused_of_blocks
from tplaunch.coordinator.architectures.experts import Parts, feed_forward_parts
from tplaunch.coordinator.architectures.keys import ignored_keys
from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.architectures.recurrent import read_recurrent
from tplaunch.coordinator.architectures.rope import read_rope
from tplaunch.coordinator.architectures.table import ARCHITECTURES, Architecture
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.recurrent import RecurrentSpec
from tplaunch.coordinator.model.spec import BlockSpec, FeedForwardSpec, LayerSpec, ModelSpec, Norm


def model_spec(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> ModelSpec:
    """The spec that a file's metadata describes. Raises ModelError where it can't be run."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ModelError(
            f"the architecture {name!r:.60} is not supported; supported: {', '.join(sorted(ARCHITECTURES))}"
        )
    architecture, read = ARCHITECTURES[name], MetadataReader(metadata, name, ignored_keys(name))
    if not read.flag("attention.causal", True):
        raise read.refuse("attention.causal", False, "true (for generating text)")
    num_layers, num_blocks = count_layers(read)
    recurrents = read_recurrent(architecture.recurrent, read, num_blocks)[:num_layers]
    heads = _heads(architecture, read, recurrents)
    parts = _feed_forwards(architecture, read, num_layers, tensors)
    width = read.integer("embedding_length", low=1)
    rope = None
    key_length = next((layer.key_length for layer in heads if layer is not None), 0)
    if architecture.has_rope and key_length:
        rope = read_rope(
            read,
            key_length,
            architecture.interleaved_rope,
            tensors,
            sections_take_turns=architecture.sections_take_turns,
        )
    attentions = read_attentions(architecture.attention, read, heads, rope, tensors)
    return ModelSpec(
        architecture=name,
        embedding_length=width,
        vocabulary_size=_vocabulary_size(tensors),
        context_length=read.integer("context_length", low=1),
        norm=Norm(architecture.norm, read.number(NORM_EPSILONS[architecture.norm], low=1e-37)),
        ropes=attentions.ropes,
        layers=tuple(
            LayerSpec(attention, feed_forward, recurrent, experts)
            for attention, (feed_forward, experts), recurrent in zip(
                attentions.layers, parts, recurrents, strict=True
            )
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
            *unused_of_blocks(tensors, num_layers, num_blocks, architecture.unused_in_layers),
        ),
    )


NORM_EPSILONS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}


def _feed_forwards(
    architecture: Architecture, read: MetadataReader, num_layers: int, tensors: Mapping[str, TensorInfo]
) -> list[Parts]:
    """Returns the feed-forward network and the experts of each layer."""
    if not architecture.feeds_forward:
        return [(None, None)] * num_layers

    def dense(index: int, length: int) -> FeedForwardSpec:
        has_divisors = f"blk.{index}.ffn.act.scales" in tensors
        return FeedForwardSpec(length, architecture.activation, architecture.gated, has_divisors)

    return feed_forward_parts(architecture.experts, read, num_layers, dense, tensors)


def _heads(
    architecture: Architecture, read: MetadataReader, recurrents: list[RecurrentSpec | None]
) -> list[LayerHeads | None]:
    """One a layer: its heads, and whether positions rotate them; None for recurrent ones."""
    count = len(recurrents)
    if None not in recurrents:
        return [None] * count
    heads = kv_heads = _head_counts(read, "attention.head_count", recurrents)
    if read.has("attention.head_count_kv"):
        kv_heads = _head_counts(read, "attention.head_count_kv", recurrents)
    width = read.integer("embedding_length", low=1)
    head_length = width // max(heads)
    key_length = read.integer("attention.key_length", head_length, low=1)
    value_length = read.integer("attention.value_length", head_length, low=1)
    if not key_length or not value_length:
        raise ModelError(f"the model has {max(heads)} heads in rows of {width} elements: they have no length")
    has_rope = architecture.has_rope and architecture.layers_with_rope in (None, count)
    has_rope = has_rope and read.flag("rope.scaling.finetuned", True)
    return [
        None
        if recurrent is not None
        else LayerHeads(num_heads, num_kv_heads, key_length, value_length, has_rope)
        for num_heads, num_kv_heads, recurrent in zip(heads, kv_heads, recurrents, strict=True)
    ]


def _head_counts(read: MetadataReader, key: str, recurrents: list[RecurrentSpec | None]) -> list[int]:
    """One a layer, which only recurrent ones may lack."""
    counts = read.integers(key, len(recurrents), low=0 if any(recurrents) else 1)
    for count, recurrent in zip(counts, recurrents, strict=True):
        if not count and recurrent is None:
            raise read.refuse(key, count, "a positive number (of every layer that attends)")
    return counts


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
