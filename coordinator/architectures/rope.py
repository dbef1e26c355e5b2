"""Reads how positions rotate queries and keys: what metadata says of ropes, and of stretching them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.rope import RopeSpec, Yarn

FACTORS = "rope_freqs.weight"  # llama 3's
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"  # longrope's


def read_rope(
    read: MetadataReader,
    key_length: int,
    interleaved: bool,
    tensors: Mapping[str, TensorInfo],
    *,
    sections_take_turns: bool = False,
) -> RopeSpec:
    """The model's rope. Raises ModelError for a scaling that is not known.

    interleaved, sections_take_turns: of the architecture, as coordinator/architectures/table.py has it.
    """
    kind = read.text("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise ModelError(
            f"rope scaling of type {kind!r:.60} is not supported; supported: none, linear, yarn, longrope"
        )
    factor = 1.0
    if kind != "none":
        old, new = "rope.scale_linear", "rope.scaling.factor"
        factor = read.number(new if read.has(new) else old, 1.0)
    is_long = LONG_FACTORS in tensors
    original_context = 0
    if is_long or kind == "yarn":
        told = read.integer("rope.scaling.original_context_length", 0)
        original_context = told or read.integer("context_length")
    rope = RopeSpec(
        dimension=read.integer("rope.dimension_count", key_length),
        base=read.number("rope.freq_base", 10000.0, low=1) * _base_factor(read, key_length),
        scale=1.0 / factor,
        interleaved=interleaved and not _was_permuted(read),
        frequency_factors=next((name for name in (FACTORS, SHORT_FACTORS) if name in tensors), ""),
        long_frequency_factors=LONG_FACTORS if is_long else "",
        original_context=original_context,
        yarn=_yarn(read) if kind == "yarn" else None,
        magnitude=read_magnitude(read, factor if kind == "yarn" else 1.0),
    )
    still = still_pairs(read, rope.dimension // 2) if sections_take_turns else ()
    return replace(rope, still_pairs=still)


def _was_permuted(read: MetadataReader) -> bool:
    """Tells whether elements that rotate together lie apart, as in files of models that also see pictures."""
    of_time, of_height, *_ = read.exactly("rope.dimension_sections", 4)
    return of_time > 0 and of_height > 0


def still_pairs(read: MetadataReader, num_pairs: int) -> tuple[int, ...]:
    """Returns the pairs that rotate by none of a picture's time, height and width.

    Those three take turns and end one by one. The pairs behind them rotate by a fourth position, which is 0
    for every token of a text.
    """
    lengths = read.exactly("rope.dimension_sections", 4)
    if not any(lengths):
        return ()
    places = ((pair, pair % sum(lengths)) for pair in range(num_pairs))
    return tuple(pair for pair, place in places if place >= 3 * lengths[place % 3])


def _base_factor(read: MetadataReader, key_length: int) -> float:
    """Returns how Hunyuan's alpha raises the base, so that the slowest pair rotates 1 / alpha as fast."""
    alpha = read.number("rope.scaling.alpha", 1.0)
    return 1.0 if alpha == 1.0 else alpha ** (key_length / max(2, key_length - 2))


def _yarn(read: MetadataReader) -> Yarn:
    return Yarn(
        read.number("rope.scaling.yarn_beta_fast", 32.0), read.number("rope.scaling.yarn_beta_slow", 1.0)
    )


def read_magnitude(read: MetadataReader, yarn_factor: float, unit: float = 1.0) -> float:
    """Returns the magnitude of cosines and sines: attention is sharper in longer contexts.

    unit: of the file's multiplier.
    """
    multiplier = unit * read.number("rope.scaling.yarn_log_multiplier", 0.0)
    magnitude = read.number("rope.scaling.attn_factor", 1.0)
    if yarn_factor > 1:
        magnitude *= sharpness(yarn_factor, 1.0) / sharpness(yarn_factor, multiplier)
    return magnitude


def sharpness(factor: float, multiplier: float) -> float:
    """Returns the number by which yarn sharpens attention in a context that is stretched by a factor."""
    return 1.0 + 0.1 * multiplier * math.log(factor)
