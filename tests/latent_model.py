"""Tiny models with latent attention, and what they compute: written from the paper, not the program."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize, quantize

from tests.models import Floats, kind_of
from tplaunch.coordinator.architectures.shapes import tensor_shapes
from tplaunch.coordinator.model.attention import Latent
from tplaunch.coordinator.model.rope import RopeSpec
from tplaunch.coordinator.model.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, Norm

Doubles = npt.NDArray[np.float64]


def latent_spec(
    num_heads: int = 3, query_rank: int = 24, rank: int = 40, nope: int = 12, rope: int = 8, value: int = 20
) -> ModelSpec:
    """Two layers whose lengths are all different, and none a multiple of a tile of 32."""
    attention = AttentionSpec(
        num_heads,
        1,
        rank + rope,
        rank,
        scale=(nope + rope) ** -0.5,
        latent=Latent(rank, query_rank, nope, rope, value),
    )
    return ModelSpec(
        architecture="deepseek2",
        embedding_length=32,
        vocabulary_size=48,
        context_length=128,
        norm=Norm("rms", 2.0**-16),
        ropes=(RopeSpec(rope, 10000.0, 1.0, True),),
        layers=(LayerSpec(attention, FeedForwardSpec(64)),) * 2,
    )


def latent_metadata(spec: ModelSpec) -> dict[str, Any]:
    """By key, without the architecture."""
    attention = spec.attentions[0]
    latent = attention.latent
    assert latent is not None
    ranks = {"attention.q_lora_rank": latent.query_rank} if latent.query_rank else {}
    return {
        "context_length": spec.context_length,
        "embedding_length": spec.embedding_length,
        "block_count": spec.num_layers,
        "feed_forward_length": spec.feed_forwards[0].length,
        "attention.head_count": attention.num_heads,
        "attention.head_count_kv": 1,
        "attention.key_length": attention.key_length,
        "attention.value_length": attention.value_length,
        "attention.kv_lora_rank": latent.rank,
        "attention.key_length_mla": latent.query_length,
        "attention.value_length_mla": latent.value_length,
        "attention.layer_norm_rms_epsilon": spec.norm.epsilon,
        "rope.dimension_count": latent.rope_length,
        "rope.freq_base": spec.ropes[0].base,
        **ranks,
    }


def write_latent(path: Path, spec: ModelSpec, joined: str = "") -> dict[str, Floats]:
    """Writes a random model in F32; returns its weights. joined: the type of a tensor of keys and values."""
    random, weights = np.random.default_rng(0), {}
    writer = gguf.GGUFWriter(path, spec.architecture)
    metadata = latent_metadata(spec)
    if joined:
        metadata |= {key: metadata.pop(key + "_mla") for key in JOINED_LENGTHS}
    for key, value in metadata.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{spec.architecture}.{key}", value)
    for name, shape in tensor_shapes(spec).items():
        values = random.standard_normal(shape).astype(np.float32) / np.float32(math.sqrt(shape[-1]))
        values += np.float32("norm" in name)
        weights[name] = values
        if not joined or kind_of(name) not in ("attn_k_b.weight", "attn_v_b.weight"):
            writer.add_tensor(name, values)
    for index in range(spec.num_layers if joined else 0):
        _join(writer, f"blk.{index}.attn_", joined, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


JOINED_LENGTHS = ("attention.key_length", "attention.value_length")


def _join(writer: gguf.GGUFWriter, prefix: str, kind: str, weights: dict[str, Floats]) -> None:
    """Writes each head's keys, the other way round, and values; weights become what that type holds."""
    keys, values = (weights[f"{prefix}{name}_b.weight"] for name in "kv")
    both = np.concatenate((keys.transpose(0, 2, 1), values), axis=1)
    quantized = quantize(both.reshape(-1, both.shape[-1]), gguf.GGMLQuantizationType[kind])
    writer.add_tensor(f"{prefix}kv_b.weight", quantized, raw_dtype=gguf.GGMLQuantizationType[kind])
    held = dequantize(quantized, gguf.GGMLQuantizationType[kind]).reshape(both.shape)
    weights[f"{prefix}k_b.weight"] = held[:, : keys.shape[2]].transpose(0, 2, 1)
    weights[f"{prefix}v_b.weight"] = held[:, keys.shape[2] :]


def latent_logits(spec: ModelSpec, weights: dict[str, Floats], tokens: list[int]) -> Doubles:
    """Returns the logits of every position [tokens, vocabulary], with keys and values of each head."""
    w = {name.removesuffix(".weight"): value.astype(np.float64) for name, value in weights.items()}
    hidden = w["token_embd"][tokens]
    for index in range(spec.num_layers):
        own = f"blk.{index}."
        layer = {name.removeprefix(own): value for name, value in w.items() if name.startswith(own)}
        hidden = hidden + _attended(spec, layer, _normed(spec, hidden, layer["attn_norm"]))
        normed = _normed(spec, hidden, layer["ffn_norm"])
        gate, up = normed @ layer["ffn_gate"].T, normed @ layer["ffn_up"].T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ layer["ffn_down"].T
    output: Doubles = _normed(spec, hidden, w["output_norm"]) @ w["output"].T
    return output


def _attended(spec: ModelSpec, layer: dict[str, Doubles], x: Doubles) -> Doubles:
    attention = spec.attentions[0]
    latent = attention.latent
    assert latent is not None
    if latent.query_rank:
        queries = _normed(spec, x @ layer["attn_q_a"].T, layer["attn_q_a_norm"]) @ layer["attn_q_b"].T
    else:
        queries = x @ layer["attn_q"].T
    queries = queries.reshape(len(x), attention.num_heads, latent.query_length)
    both = x @ layer["attn_kv_a_mqa"].T
    vector = _normed(spec, both[:, : latent.rank], layer["attn_kv_a_norm"])
    shared_key = _rotated(spec, both[:, latent.rank :])
    heads = []
    for head in range(attention.num_heads):
        query, rotating = np.split(queries[:, head], [latent.nope_length], axis=1)
        key = vector @ layer["attn_k_b"][head]  # [positions, nope_length]
        value = vector @ layer["attn_v_b"][head].T
        scores = query @ key.T + _rotated(spec, rotating) @ shared_key.T
        scores /= math.sqrt(latent.query_length)
        scores[np.triu_indices(len(x), 1)] = -np.inf
        weight = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(weight / weight.sum(axis=1, keepdims=True) @ value)
    attended: Doubles = np.concatenate(heads, axis=1) @ layer["attn_output"].T
    return attended


def _rotated(spec: ModelSpec, x: Doubles) -> Doubles:
    """x [positions, length]: pairs of neighbours as complex numbers."""
    rope = spec.ropes[0]
    angles = np.outer(np.arange(len(x)), rope.base ** (-np.arange(0, rope.dimension, 2) / rope.dimension))
    rotated = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
    pairs: Doubles = np.stack((rotated.real, rotated.imag), -1).reshape(x.shape)
    return pairs


def _normed(spec: ModelSpec, x: Doubles, weight: Doubles) -> Doubles:
    normed: Doubles = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + spec.norm.epsilon) * weight
    return normed
