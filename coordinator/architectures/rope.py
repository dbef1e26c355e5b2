"""How positions turn queries and keys: what metadata says of ropes, and of stretching them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from coordinator.architectures.metadata import MetadataReader
from coordinator.gguf.origin import TensorInfo
from coordinator.spec.model import ModelError, Rope, Yarn

FACTORS = "rope_freqs.weight"  # llama 3's
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"  # longrope's


def read_rope(
    read: MetadataReader,
    key_length: int,
    interleaved: bool,
    tensors: Mapping[str, TensorInfo],
    *,
    yarn_is_told: bool = False,
) -> Rope:
    """The model's rope. Raises ModelError for a scaling that is not known.

    yarn_is_told: whether the file's numbers of turns count; llama.cpp takes the usual ones for most.
    """
    kind = read.text("rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise ModelError(
            f"rope scaling of type {kind!r} is not supported; supported: none, linear, yarn, longrope"
        )
    named = "rope.scaling.factor" if read.has("rope.scaling.factor") else "rope.scale_linear"  # in old files
    factor = read.number(named, 1.0) if kind != "none" else 1.0
    is_long = LONG_FACTORS in tensors
    original_context = 0
    if is_long or kind == "yarn":
        told = read.integer("rope.scaling.original_context_length", 0)
        original_context = told or read.integer("context_length")
    return Rope(
        dimension=read.integer("rope.dimension_count", key_length),
        base=read.number("rope.freq_base", 10000.0),
        scale=1.0 / factor,
        interleaved=interleaved,
        factors=next((name for name in (FACTORS, SHORT_FACTORS) if name in tensors), ""),
        long_factors=LONG_FACTORS if is_long else "",
        original_context=original_context,
        yarn=_yarn(read, yarn_is_told) if kind == "yarn" else None,
        magnitude=_magnitude(read, factor if kind == "yarn" else 1.0, yarn_is_told),
    )


def _yarn(read: MetadataReader, is_told: bool) -> Yarn:
    turns = {"fast": 32.0, "slow": 1.0}
    if is_told:
        turns = {name: read.number(f"rope.scaling.yarn_beta_{name}", usual) for name, usual in turns.items()}
    return Yarn(**turns)


def _magnitude(read: MetadataReader, yarn_factor: float, is_told: bool) -> float:
    """Of cosines and sines; attention is sharper in longer contexts."""
    magnitude = read.number("rope.scaling.attn_factor", 1.0) * yarn_magnitude(yarn_factor, 1.0)
    if is_told and read.number("rope.scaling.yarn_log_multiplier", 0.0):
        magnitude /= yarn_magnitude(yarn_factor, read.number("rope.scaling.yarn_log_multiplier"))
    return magnitude


def yarn_magnitude(factor: float, multiplier: float) -> float:
    """By which yarn makes attention sharper where a context is stretched by a factor."""
    return 1.0 + 0.1 * multiplier * math.log(factor) if factor > 1 else 1.0
