"""The operations that compute the attention of a layer, by the features of its spec."""

from __future__ import annotations

from tplaunch.coordinator.model.spec import AttentionSpec
from tplaunch.coordinator.split.plan import LayerShare, padded
from tplaunch.worker.buffers.attention import ATTENDED, cache_names, qkv_length, share_heads
from tplaunch.worker.buffers.stacks import QKV, stacked_tensors
from tplaunch.worker.ops.attention import (
    HEAD_SUMS,
    Alibi,
    Attention,
    AttentionCombine,
    Clamp,
    HeadNorm,
    HeadSums,
    RopeCache,
    Rotate,
    Rotation,
    RowSums,
    fits_matrices,
)
from tplaunch.worker.programs.builder import ProgramBuilder
from tplaunch.worker.programs.latent import attended_products, latent_products


def write_cache(builder: ProgramBuilder, index: int, attention: AttentionSpec, share: LayerShare) -> None:
    """Queries, keys and values of the normed rows; keys and values go to the layer's cache."""
    heads = share_heads(attention, share)
    if heads.num_heads and attention.latent is not None:
        latent_products(builder, index, attention.latent, heads)
    elif heads.num_heads:
        builder.products(stacked_tensors(f"blk.{index}", QKV, builder.shards), "qkv")
        if attention.clamp:
            builder.add(Clamp(qkv_length(attention, share), attention.clamp))
    rotation, norm = _rotation(builder, attention), attention.head_norm
    if norm is not None:
        if norm.after_rope and heads.num_heads and rotation.dimension:
            builder.add(Rotate(heads, rotation))
            rotation = Rotation()
        _normalise(builder, index, attention, share)
    if heads.num_heads:
        key, value = cache_names(index, attention)
        value_length = 0 if attention.latent is not None else attention.value_length
        temperature = builder.spec.rope_length - 1 if attention.has_temperature else None
        windowed = attention.window is not None
        builder.add(RopeCache(key, value, heads, value_length, rotation, temperature, windowed))


def _rotation(builder: ProgramBuilder, attention: AttentionSpec) -> Rotation:
    if attention.rope is None:
        return Rotation()
    rope = builder.spec.ropes[attention.rope]
    start = attention.latent.rank if attention.latent is not None else 0
    return Rotation(builder.spec.rope_offset(attention.rope), rope.dimension, rope.interleaved, start)


def _normalise(builder: ProgramBuilder, index: int, attention: AttentionSpec, share: LayerShare) -> None:
    """Queries and keys. Where the norm is of all heads, the ranks exchange sums; also those without heads."""
    norm, heads = attention.head_norm, share_heads(attention, share)
    assert norm is not None, "no norm"
    sums = None
    if norm.span == "row":
        group = attention.heads_per_kv_head
        parity = builder.next_parity
        builder.add(HeadSums(heads, share.heads.start % group != 0, parity))
        builder.exchange_rows(HEAD_SUMS)
        length = attention.key_length
        sums = RowSums(parity, attention.num_heads * length, attention.num_kv_heads * length)
    if not heads.num_heads:
        return
    names = [f"blk.{index}.attn_{kind}_norm.{suffix}" for suffix in ("weight", "bias") for kind in "qk"]
    query_weight, key_weight, query_bias, key_bias = (
        name if name in builder.shards else None for name in names
    )
    length = attention.key_length
    strides = {"head": 0, "heads": padded(length), "row": length}
    builder.add(
        HeadNorm(
            heads,
            builder.spec.norm.epsilon,
            query_weight,
            key_weight,
            kind=norm.kind,
            weight_stride=strides[norm.span],
            query_bias=query_bias,
            key_bias=key_bias,
            sums=sums,
        )
    )


def attend(builder: ProgramBuilder, index: int, attention: AttentionSpec, share: LayerShare) -> None:
    """Attends with the queries over the layer's cache, into this rank's partial sums."""
    output, num_heads = f"blk.{index}.attn_output", len(share.heads)
    if num_heads:
        window, bias, group = attention.window, attention.alibi_bias, attention.heads_per_kv_head
        first_head = share.heads.start % group
        if len(share.kv_heads) == 1:
            group, first_head = num_heads, 0  # others of the group are none of this rank's business
        offset = builder.shards[output + ".weight"].column_offset
        combination = _combination(index, attention, num_heads, offset)
        lengths = attention.key_length, attention.value_length
        by_matrices = builder.attends_by_matrices and fits_matrices(*lengths)
        finishes = (builder.in_one_part or by_matrices) and not combination.gated
        builder.add(
            Attention(
                *cache_names(index, attention),
                num_heads=num_heads,
                num_kv_heads=len(share.kv_heads),
                first_head=first_head,
                heads_per_kv_head=group,
                key_length=attention.key_length,
                value_length=attention.value_length,
                scale=attention.scale,
                window=window.length if window else 0,
                chunked=window is not None and window.chunked,
                softcap=attention.softcap,
                alibi=Alibi(bias, share.heads.start, attention.num_heads) if bias else None,
                finish=combination if finishes else None,
                activations="f16" if by_matrices else "f32",
            )
        )
        if not finishes:
            builder.add(combination)
        if attention.latent is not None:
            attended_products(builder, index, attention.latent, num_heads, offset)
    builder.partial(output, "attended")


def _combination(index: int, attention: AttentionSpec, num_heads: int, offset: int) -> AttentionCombine:
    if attention.latent is not None:
        return AttentionCombine(num_heads, attention.latent.rank, 0, output=ATTENDED)
    sinks = f"blk.{index}.attn_sinks.weight" if attention.sinks else None
    return AttentionCombine(num_heads, attention.value_length, offset, sinks, attention.gated)
