"""What a transformer computes in a step, as a program: layer by layer, by the features of its spec."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.model import AttentionSpec, FeedForwardSpec, ModelSpec
from coordinator.plan import LayerShare, RankShare
from coordinator.shards import Shard
from worker.builder import ProgramBuilder
from worker.expert_ops import RowGate
from worker.experts import add_experts, add_routing
from worker.ops import Activate, Attention, AttentionCombine, HeadNorm, RopeCache
from worker.program import Program
from worker.stacks import GATE_UP, QKV, SHARED_GATE_UP, stacked_tensors


def build_program(
    spec: ModelSpec,
    share: RankShare,
    shards: Mapping[str, Shard],
    num_ranks: int,
    rows: int,
    logit_rows: int,
    *,
    activations: str = "f32",
    two_phase: bool = False,
    shares_routing: bool = False,
) -> Program:
    """The program of one rank. An all-reduce for each part of a layer, or one for both if they are parallel.
    One rank alone needs none and gets one segment.

    two_phase: how the all-reduces are made; the same bits come out either way. shares_routing: whether rank 0
    chooses all ranks' experts, for which every layer that has some costs another, small one.
    """
    builder = ProgramBuilder(
        spec, share, shards, num_ranks, rows, logit_rows, activations, two_phase, shares_routing
    )
    if spec.embedding_norm:
        builder.start(spec.embedding_norm)
    last = spec.num_layers - 1
    for index in range(spec.num_layers):
        if index == last and not logit_rows:
            _fill_caches(builder, index)  # nothing reads what would follow
        else:
            _layer(builder, index)
    if logit_rows:
        builder.norm(spec.output_norm, "final", "logit_rows")
        if len(share.vocabulary):
            scale, softcap = spec.logit_scale, spec.logit_softcap
            builder.matmul("output", "final", "logits", "logit_rows", scale=scale, softcap=softcap)
    return builder.finished()


def build_sums(
    spec: ModelSpec, share: RankShare, shards: Mapping[str, Shard], num_ranks: int, rows: int, two_phase: bool
) -> Program:
    """Nothing but two all-reduces and what adds them up: for measuring these."""
    builder = ProgramBuilder(spec, share, shards, num_ranks, rows, 0, two_phase=two_phase)
    for _ in range(2):
        builder.exchange()
        builder.norm(spec.output_norm, "normed")
    return builder.finished()


def _fill_caches(builder: ProgramBuilder, index: int) -> None:
    """What of a layer later steps read."""
    attention = builder.spec.layers[index].attention
    builder.norm(_named(index, builder.spec.block.attention_norm), "normed")
    if attention is not None:
        _write_cache(builder, index, attention, builder.share.layers[index])


def _layer(builder: ProgramBuilder, index: int) -> None:
    block, layer, share = builder.spec.block, builder.spec.layers[index], builder.share.layers[index]
    parallel = block.parallel and layer.attention is not None and layer.has_feed_forward
    if layer.attention is not None:
        builder.norm(_named(index, block.attention_norm), "normed")
        _write_cache(builder, index, layer.attention, share)
        _attend(builder, index, layer.attention, share)
        if not parallel:
            _end_part(builder, index, block.attention_post_norm)
    if layer.has_feed_forward:
        if not parallel or block.feed_forward_norm:
            builder.norm(_named(index, block.feed_forward_norm), "normed")
        if layer.experts is not None:
            add_routing(builder, index, layer.experts)
        if layer.feed_forward is not None:
            _feed_forward(builder, index, layer.feed_forward, share, accumulates=parallel)
        if layer.experts is not None:
            accumulates = parallel or layer.feed_forward is not None
            add_experts(builder, index, layer.experts, share, accumulates=accumulates)
        _end_part(builder, index, block.feed_forward_post_norm)


def _named(index: int, name: str) -> str:
    """A layer's tensor; "" where the layer has none."""
    return f"blk.{index}.{name}" if name else ""


def _end_part(builder: ProgramBuilder, index: int, post_norm: str) -> None:
    builder.exchange()
    if post_norm:
        builder.post_norm(_named(index, post_norm), "block")


def _write_cache(builder: ProgramBuilder, index: int, attention: AttentionSpec, share: LayerShare) -> None:
    """Queries, keys and values of the normed rows; keys and values go to the layer's cache."""
    heads, kv_heads = len(share.heads), len(share.kv_heads)
    if not heads:
        return
    layer = f"blk.{index}"
    builder.products(stacked_tensors(layer, QKV, builder.shards), "qkv")
    if attention.head_norm:
        builder.add(
            HeadNorm(
                heads,
                kv_heads,
                attention.key_length,
                f"{layer}.attn_q_norm.weight",
                f"{layer}.attn_k_norm.weight",
                builder.spec.norm.epsilon,
            )
        )
    rope = None if attention.rope is None else builder.spec.ropes[attention.rope]
    builder.add(
        RopeCache(
            *cache_names(index),
            num_heads=heads,
            num_kv_heads=kv_heads,
            key_length=attention.key_length,
            value_length=attention.value_length,
            rope_offset=0 if attention.rope is None else builder.spec.rope_offset(attention.rope),
            rope_dimension=0 if rope is None else rope.dimension,
            interleaved=rope is not None and rope.interleaved,
        )
    )


def _attend(builder: ProgramBuilder, index: int, attention: AttentionSpec, share: LayerShare) -> None:
    """Of the queries over the layer's cache, into this rank's partial sums."""
    output = f"blk.{index}.attn_output"
    if len(share.heads):
        builder.add(
            Attention(
                *cache_names(index),
                num_heads=len(share.heads),
                num_kv_heads=len(share.kv_heads),
                first_head=share.heads.start % attention.heads_per_kv_head,
                heads_per_kv_head=attention.heads_per_kv_head,
                key_length=attention.key_length,
                value_length=attention.value_length,
                scale=attention.scale,
            )
        )
        offset = builder.shards[output + ".weight"].column_offset
        builder.add(AttentionCombine(len(share.heads), attention.value_length, offset))
    builder.partial(output, "attended")


def _feed_forward(
    builder: ProgramBuilder,
    index: int,
    feed_forward: FeedForwardSpec,
    share: LayerShare,
    *,
    accumulates: bool,
) -> None:
    """Of the normed rows, into this rank's partial sums, which may hold the other part's already."""
    layer, columns, suffix = f"blk.{index}", len(share.feed_forward), feed_forward.suffix
    down, activation, output = f"{layer}.ffn_down{suffix}", feed_forward.activation, f"activated{suffix}"
    if columns:
        offset = builder.shards[down + ".weight"].column_offset
        group = SHARED_GATE_UP if suffix else GATE_UP
        stacked, gated = stacked_tensors(layer, group, builder.shards), feed_forward.gated
        if len(stacked) == 1 and not feed_forward.has_divisors:
            builder.matmul(stacked[0], "normed", output, offset=offset, activation=activation, gated=gated)
        else:
            builder.products(stacked, "gate_up")
            divisors = f"{layer}.ffn.act.scales" if feed_forward.has_divisors else None
            builder.add(Activate(columns, offset, activation, gated, divisors, output))
        if feed_forward.row_gate:
            gate, width = f"{layer}.{feed_forward.row_gate}", builder.spec.embedding_length
            builder.add(RowGate(gate, width, "normed", output, offset, columns))
    builder.partial(down, output, accumulates=accumulates)


def cache_names(layer: int) -> tuple[str, str]:
    """The buffers of one layer's keys and values."""
    return f"cache.{layer}.key", f"cache.{layer}.value"


def qkv_length(attention: AttentionSpec, share: LayerShare) -> int:
    """Elements of a row of a layer's queries, keys and values."""
    num_keys = len(share.heads) + len(share.kv_heads)
    return num_keys * attention.key_length + len(share.kv_heads) * attention.value_length
