"""The attention of each layer: what an architecture's features and a file's metadata and tensors say of it.

Which layers have windows, which rope, and what the defaults are, is as llama.cpp has it (src/models/*.cpp).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tplaunch.coordinator.architectures.latent import read_latent_attentions
from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.architectures.rope import read_magnitude
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.attention import QueryKeyNorm, Temperature, Window
from tplaunch.coordinator.model.rope import RopeSpec
from tplaunch.coordinator.model.spec import AttentionSpec


@dataclass(frozen=True)
class AttentionFeatures:
    """The features in which the attention of architectures differs."""

    full_period: int | None = None  # of so many layers the last sees all keys, the others a window; 0: all do
    window: int = 0  # where the file says nothing; 0 for none
    window_layers: int | None = None  # only a model of so many layers has windows
    chunked: bool = False
    window_rope_base: float | None = None  # of layers with windows, where the file says nothing
    plain_window_rope: bool = False  # whether layers with windows rotate unscaled
    plain_window_magnitude: float | None = None  # of their cosines and sines; None: the file's
    full_without_rope: bool = False  # whether layers that see all keys lack rope, where others have windows
    rope_period: int = 0  # of so many layers the last has no rope
    norm: QueryKeyNorm | None = None
    norm_is_optional: bool = False
    norm_follows_queries: bool = False  # whether that of keys is left out where queries have none
    norm_experts: int | None = None  # a model of so many experts has no norm
    width_scale_layers: int | None = None  # a model of so many layers scales by its width, not its heads'
    softcap: float = 0.0  # where the file says nothing
    alibi_bias: float = 0.0  # where the file says nothing
    alibi_layers: int | None = None  # only a model of so many layers has that one
    sinks: bool = False
    gated: bool = False
    temperature: Temperature | None = None  # of layers without rope
    tempered_with_rope: bool = False  # whether a file may have one for all layers
    latent: bool = False  # whether all heads' keys and values come of one vector
    plain_latent_rope: bool = False  # whether keys are rotated unscaled where a file has yarn's multiplier


@dataclass(frozen=True)
class LayerHeads:
    """The numbers that every attention has, as a file says them: not checked yet."""

    num_heads: int
    num_kv_heads: int
    key_length: int
    value_length: int
    has_rope: bool


@dataclass(frozen=True)
class Attentions:
    """The attention of a model's layers, its ropes, and tensors that they don't use."""

    layers: tuple[AttentionSpec | None, ...]
    ropes: tuple[RopeSpec, ...]
    temperature: Temperature | None
    unused_tensors: tuple[str, ...]


def read_attentions(
    features: AttentionFeatures,
    read: MetadataReader,
    layers: list[LayerHeads | None],
    rope: RopeSpec | None,
    tensors: Mapping[str, TensorInfo],
) -> Attentions:
    """The attention of layers with these heads; None for those without any.

    Raises ModelError.
    """
    count = len(layers)
    windows = _windows(features, read, count)
    ropes = () if rope is None else _ropes(features, read, rope, windows)
    temperature = _temperature(features, read, rope, any(windows))
    if features.latent and rope is not None:
        heads = [layer.num_heads for layer in layers if layer is not None]
        latent, rope = read_latent_attentions(read, heads, rope, tensors, features.plain_latent_rope)
        if temperature is not None:
            latent = [replace(attention, has_temperature=True) for attention in latent]
        return Attentions(tuple(latent), (rope,), temperature, ())
    finished: list[AttentionSpec | None] = []
    unused: list[str] = []
    for index, (layer, window) in enumerate(zip(layers, windows, strict=True)):
        if layer is None:
            finished.append(None)
            continue
        key_length, value_length = layer.key_length, layer.value_length
        if window is not None:
            key_length = read.integer("attention.key_length_swa", key_length, low=1)
            value_length = read.integer("attention.value_length_swa", value_length, low=1)
        rotates = _rotates(features, index, window, any(windows)) and layer.has_rope
        norm = _norm(features, read, index, rotates, tensors)
        if norm is None and features.norm_follows_queries:
            unused += [f"blk.{index}.attn_k_norm.{suffix}" for suffix in ("weight", "bias")]
        finished.append(
            AttentionSpec(
                layer.num_heads,
                layer.num_kv_heads,
                key_length=key_length,
                value_length=value_length,
                scale=_scale(features, read, layer.num_heads, key_length, count),
                rope=(len(ropes) - 1 if window is not None else 0) if rotates else None,
                head_norm=norm,
                window=window,
                softcap=read.number("attn_logit_softcapping", features.softcap),
                alibi_bias=_alibi_bias(features, read, count),
                clamp=read.number("attention.clamp_kqv", 0.0),
                sinks=features.sinks,
                gated=features.gated,
                has_temperature=temperature is not None and (features.tempered_with_rope or not rotates),
            )
        )
    return Attentions(tuple(finished), ropes, temperature, tuple(unused))


def _windows(features: AttentionFeatures, read: MetadataReader, count: int) -> list[Window | None]:
    """One a layer; the pattern is a period, or says of each layer whether it has one."""
    length = read.integer("attention.sliding_window", features.window)
    if features.chunked and length:
        length = features.window
    if features.full_period is None or features.window_layers not in (None, count) or length == 0:
        return [None] * count
    window, pattern = Window(length, features.chunked), "attention.sliding_window_pattern"
    if features.full_period and read.is_list(pattern):
        return [window if slides else None for slides in read.flags(pattern, count)]
    period = read.integer(pattern, features.full_period) if features.full_period else 0
    return [window if period == 0 or index % period < period - 1 else None for index in range(count)]


def _ropes(
    features: AttentionFeatures, read: MetadataReader, rope: RopeSpec, windows: Sequence[Window | None]
) -> tuple[RopeSpec, ...]:
    """Returns the rope of layers that see all keys and, where it differs, then that of layers with windows.

    As many elements are rotated in all layers as in the first.
    """
    if windows[0] is not None:
        rope = replace(rope, dimension=read.integer("rope.dimension_count_swa", rope.dimension, low=1))
    default = features.window_rope_base or rope.base
    windowed = replace(rope, base=read.number("rope.freq_base_swa", default, low=1))
    if features.plain_window_rope:
        magnitude = features.plain_window_magnitude or read_magnitude(read, 1.0)
        windowed = replace(windowed, scale=1.0, yarn=None, magnitude=magnitude)
    differs = any(windows) and windowed != rope
    return (rope, windowed) if differs else (rope,)


def _rotates(features: AttentionFeatures, index: int, window: Window | None, any_windows: bool) -> bool:
    """Tells whether a layer has rope, as far as the features say."""
    if features.full_without_rope and any_windows and window is None:
        return False
    # Without windows llama 4 rotates in all layers.
    period = features.rope_period if any_windows or not features.chunked else 0
    return not period or (index + 1) % period != 0


def _norm(
    features: AttentionFeatures,
    read: MetadataReader,
    index: int,
    rotates: bool,
    tensors: Mapping[str, TensorInfo],
) -> QueryKeyNorm | None:
    norm = features.norm
    if norm is None or not norm.weighted:
        has_norm = rotates and features.norm_experts != read.integer("expert_count", 0)
        return norm if has_norm else None
    is_missing = features.norm_is_optional and f"blk.{index}.attn_q_norm.weight" not in tensors
    return None if is_missing else norm


def _scale(
    features: AttentionFeatures, read: MetadataReader, num_heads: int, key_length: int, count: int
) -> float:
    length = key_length
    if features.width_scale_layers == count:
        length = max(1, read.integer("embedding_length") // num_heads)
    return read.number("attention.scale", length**-0.5)


def _alibi_bias(features: AttentionFeatures, read: MetadataReader, count: int) -> float:
    default = features.alibi_bias if features.alibi_layers in (None, count) else 0.0
    return read.number("attention.max_alibi_bias", default)


def _temperature(
    features: AttentionFeatures, read: MetadataReader, rope: RopeSpec | None, any_windows: bool
) -> Temperature | None:
    if not features.tempered_with_rope:
        return features.temperature if any_windows else None
    scale = read.number("attention.temperature_scale", 0.0)
    if not scale:
        return None
    original = read.integer("rope.scaling.original_context_length", 0)
    original = original or read.integer("context_length", low=1)
    length = read.integer("attention.temperature_length", original, low=1)
    return Temperature(length, scale, 0.0)
