"""Layers whose only KV head is a vector that all heads share, as a file's metadata tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tplaunch.coordinator.architectures.metadata import MetadataReader
from tplaunch.coordinator.architectures.rope import read_magnitude, sharpness
from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.attention import Latent
from tplaunch.coordinator.model.checks import ModelError, exact_quotient
from tplaunch.coordinator.model.rope import RopeSpec
from tplaunch.coordinator.model.spec import AttentionSpec

LATENT_UNIT = 10.0  # files of models with latent attention hold a tenth of yarn's multiplier


def read_latent_attentions(
    read: MetadataReader,
    heads: Sequence[int],
    rope: RopeSpec,
    tensors: Mapping[str, TensorInfo],
    is_plain: bool,
) -> tuple[list[AttentionSpec], RopeSpec]:
    """Returns the attention of layers with so many heads, and how they rotate.

    is_plain: whether they rotate unscaled where the file has yarn's multiplier. Raises ModelError.
    """
    rank = read.integer("attention.kv_lora_rank")
    # Some files name a rank that the model does not have.
    query_rank = 0 if "blk.0.attn_q.weight" in tensors else read.integer("attention.q_lora_rank", 0)
    # Files that don't part keys from values have heads of plain lengths.
    suffix = "" if "blk.0.attn_kv_b.weight" in tensors else "_mla"
    query_length = read.integer(f"attention.key_length{suffix}")
    attended = read.integer(f"attention.value_length{suffix}")
    latent_lengths = (rank, query_length - rope.dimension, attended)
    if not all(length > 0 for length in latent_lengths):
        raise ModelError(
            f"a latent of {rank} elements with queries of {query_length}, of which {rope.dimension} are"
            f" rotated, and values of {latent_lengths[2]} is not possible"
        )
    nope_length, value_length = latent_lengths[1:]
    exact_quotient(query_length, 4, f"the model's attention.key_length{suffix}")  # kernels read it in fours
    # Yarn makes scores sharper by a factor of its own: rope_yarn_log_mul in llama.cpp's deepseek2.cpp.
    multiplier = LATENT_UNIT * read.number("rope.scaling.yarn_log_multiplier", 0.0)
    stretch = 1 / rope.scale
    rotates_alike = multiplier > 0 and is_plain
    yarn_stretch = stretch if rope.yarn is not None and not rotates_alike else 1.0
    magnitude = read_magnitude(read, yarn_stretch, LATENT_UNIT)
    scale = magnitude * sharpness(stretch, multiplier)
    if rope.yarn is None:
        scale *= sharpness(stretch, 1.0)
    spec = Latent(rank, query_rank, nope_length, rope.dimension, value_length)
    length, scale = rank + rope.dimension, scale**2 * query_length**-0.5
    attentions = [AttentionSpec(count, 1, length, rank, scale=scale, latent=spec) for count in heads]
    return attentions, replace(rope, magnitude=magnitude)
