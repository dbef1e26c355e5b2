"""Cuts every tensor for a rank, by a model's features and the plan."""

from __future__ import annotations

from collections.abc import Mapping

from tplaunch.coordinator.gguf.origin import TensorInfo
from tplaunch.coordinator.model.checks import ModelError
from tplaunch.coordinator.model.spec import AttentionSpec, FeedForwardSpec, ModelSpec
from tplaunch.coordinator.split.cutter import Cutter, Rows, check_shape
from tplaunch.coordinator.split.expert_shards import cut_experts
from tplaunch.coordinator.split.latent_shards import cut_latent_attention
from tplaunch.coordinator.split.plan import LayerShare, RankShare, Span, make_plan
from tplaunch.coordinator.split.recurrent_shards import cut_recurrent
from tplaunch.coordinator.split.shards import Shard


def rank_shards(spec: ModelSpec, share: RankShare, tensors: Mapping[str, TensorInfo]) -> dict[str, Shard]:
    """Every tensor that a rank loads, under its name on the device, checked against the spec's shapes.

    Raises ModelError for a missing tensor and a wrong shape.
    """
    unused = set(spec.unused_tensors)
    used = {name: tensor for name, tensor in tensors.items() if name not in unused}
    cutter = Cutter(used, share.index, spec.embedding_length)
    for index, layer, layer_share in share.held(spec):
        prefix = f"blk.{index}."
        for name in layer_norms(spec):
            cutter.norm(prefix + name)
        if layer.attention is not None:
            _cut_attention(cutter, prefix, layer.attention, layer_share)
        if layer.recurrent is not None:
            cut_recurrent(cutter, prefix, layer.recurrent, layer_share)
        if layer.feed_forward is not None:
            _cut_feed_forward(cutter, prefix, layer.feed_forward, layer_share.feed_forward)
        if layer.experts is not None:
            cut_experts(cutter, prefix, layer.experts, layer_share, routes=share.holds_experts)
    if spec.embedding_norm and share.begins:
        cutter.norm(spec.embedding_norm)
    if share.ends(spec):
        _cut_output(cutter, spec, share, tensors)
    return cutter.shards


def _cut_output(cutter: Cutter, spec: ModelSpec, share: RankShare, tensors: Mapping[str, TensorInfo]) -> None:
    cutter.norm(spec.output_norm)
    output = "output" if "output.weight" in tensors else "token_embd"
    rows = Rows(output, spec.vocabulary_size)
    cutter.column_parallel("output", rows, share.vocabulary)
    if "output.bias" in tensors:  # tied embeddings may have one, too
        cutter.part_of_vector("output.bias", share.vocabulary, spec.vocabulary_size)


def layer_norms(spec: ModelSpec) -> list[str]:
    """The tensors that normalise rows in every layer, without ".weight"."""
    block = spec.block
    names = (
        block.attention_norm,
        block.attention_post_norm,
        block.feed_forward_norm,
        block.feed_forward_post_norm,
    )
    return [name for name in dict.fromkeys(names) if name]


def _cut_attention(cutter: Cutter, prefix: str, attention: AttentionSpec, share: LayerShare) -> None:
    if attention.latent is not None:
        cut_latent_attention(cutter, prefix, attention, attention.latent, share)
        return
    key_length, value_length = attention.key_length, attention.value_length
    parts = (
        ("attn_q", share.heads.scaled(attention.query_stride), attention.num_heads * attention.query_stride),
        ("attn_k", share.kv_heads.scaled(key_length), attention.num_kv_heads * key_length),
        ("attn_v", share.kv_heads.scaled(value_length), attention.num_kv_heads * value_length),
    )
    cutter.fused_column_parallel(prefix, parts, "attn_qkv")
    if attention.head_norm is not None and attention.head_norm.weighted:
        counts = (attention.num_heads, attention.num_kv_heads)
        for kind, heads, count in zip(("q", "k"), (share.heads, share.kv_heads), counts, strict=True):
            cutter.head_norm(f"{prefix}attn_{kind}_norm", attention.head_norm.span, heads, count, key_length)
    if attention.sinks:
        cutter.part_of_vector(prefix + "attn_sinks.weight", share.heads, attention.num_heads)
    attended = share.heads.scaled(value_length)
    cutter.row_parallel(prefix + "attn_output", attended, attention.num_heads * value_length)


def _cut_feed_forward(cutter: Cutter, prefix: str, feed_forward: FeedForwardSpec, columns: Span) -> None:
    length, suffix = feed_forward.length, feed_forward.suffix
    names = ("ffn_gate", "ffn_up") if feed_forward.gated else ("ffn_up",)
    parts = tuple((name + suffix, columns, length) for name in names)
    cutter.fused_column_parallel(prefix, parts, "ffn_up" + suffix)
    if feed_forward.has_divisors:
        cutter.part_of_vector(prefix + "ffn.act.scales", columns, length)
    cutter.row_parallel(prefix + "ffn_down" + suffix, columns, length)
    if feed_forward.row_gate:
        cutter.vector(prefix + feed_forward.row_gate, cutter.width)


# Read on the host, or folded into the rope table: known, but no rank's shard.
EMBEDDING = "token_embd.weight"


def check_tensors(spec: ModelSpec, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises ModelError for missing tensors, wrong shapes, and tensors that nothing would read."""
    everything = make_plan(spec, [1.0])[0]
    on_host: dict[str, tuple[int, ...]] = {EMBEDDING: (spec.vocabulary_size, spec.embedding_length)}
    for rope in spec.ropes:
        names = (rope.frequency_factors, rope.long_frequency_factors)
        on_host |= {name: (rope.dimension // 2,) for name in names if name}
    if spec.position_embeddings:
        on_host[spec.position_embeddings] = (spec.context_length, spec.embedding_length)
    read = {shard.tensor for shard in rank_shards(spec, everything, tensors).values()} | on_host.keys()
    left = sorted(tensors.keys() - read - set(spec.unused_tensors))
    if left:
        raise ModelError(
            f"{len(left)} tensors of the file are not known for {spec.architecture}, the first is {left[0]!r}"
        )
    for name, expected in on_host.items():
        if name not in tensors:
            raise ModelError(f"the model has no tensor {name!r}")
        check_shape(tensors[name], expected)
