"""Which part of each tensor a rank loads, by what a model's features and the plan say."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.gguf.origin import TensorInfo
from coordinator.spec.attention import Latent
from coordinator.spec.experts import ExpertsSpec
from coordinator.spec.model import AttentionSpec, FeedForwardSpec, ModelError, ModelSpec
from coordinator.split.plan import LayerShare, RankShare, Span, make_plan
from coordinator.split.recurrent_shards import cut_recurrent
from coordinator.split.shards import Cutter, ExpertCut, Rows, Shard, check_shape


def rank_shards(spec: ModelSpec, share: RankShare, tensors: Mapping[str, TensorInfo]) -> dict[str, Shard]:
    """Every tensor that a rank loads, under its name on the device, checked against the spec's shapes.

    Raises ModelError for a missing tensor and a wrong shape.
    """
    used = {name: tensor for name, tensor in tensors.items() if name not in spec.unused_tensors}
    cutter = Cutter(used, share.rank, spec.embedding_length)
    for index, (layer, layer_share) in enumerate(zip(spec.layers, share.layers, strict=True)):
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
            _cut_experts(cutter, prefix, layer.experts, layer_share)
    cutter.norm(spec.output_norm)
    if spec.embedding_norm:
        cutter.norm(spec.embedding_norm)
    output = "output" if "output.weight" in tensors else "token_embd"
    rows = Rows(output, spec.vocabulary_size)
    cutter.column_parallel("output", rows, share.vocabulary)
    if "output.bias" in tensors:  # tied embeddings may have one, too
        cutter.part_of_vector("output.bias", share.vocabulary, spec.vocabulary_size)
    return cutter.shards


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
        _cut_latent_attention(cutter, prefix, attention, attention.latent, share)
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


def _cut_latent_attention(
    cutter: Cutter, prefix: str, attention: AttentionSpec, latent: Latent, share: LayerShare
) -> None:
    """What makes the latent is replicated where there are heads; what is of one head goes with it."""
    heads, count = share.heads, attention.num_heads

    def whole(length: int) -> Span:
        return Span(0, length if len(heads) else 0)

    query = heads.scaled(latent.query_length), count * latent.query_length
    if latent.query_rank:
        cutter.matrix(prefix + "attn_q_a", (latent.query_rank, cutter.width), whole(latent.query_rank))
        cutter.vector(prefix + "attn_q_a_norm.weight", latent.query_rank)
        cutter.matrix(prefix + "attn_q_b", (query[1], latent.query_rank), query[0])
    else:
        cutter.matrix(prefix + "attn_q", (query[1], cutter.width), query[0])
    cutter.matrix(prefix + "attn_kv_a_mqa", (attention.key_length, cutter.width), whole(attention.key_length))
    cutter.vector(prefix + "attn_kv_a_norm.weight", latent.rank)
    key, value, both = (f"{prefix}attn_{kind}_b" for kind in ("k", "v", "kv"))
    if both + ".weight" in cutter.tensors:  # files older than April 2025
        shape = count, latent.nope_length, latent.value_length
        cutter.keys_and_values(both, key, value, shape, latent.rank, heads)
    else:
        cutter.head_matrices(key, (count, latent.rank, latent.nope_length), heads)
        cutter.head_matrices(value, (count, latent.value_length, latent.rank), heads)
    attended = heads.scaled(latent.value_length)
    cutter.row_parallel(prefix + "attn_output", attended, count * latent.value_length)


def _cut_feed_forward(cutter: Cutter, prefix: str, feed_forward: FeedForwardSpec, columns: Span) -> None:
    length, suffix = feed_forward.length, feed_forward.suffix
    names = ("ffn_gate", "ffn_up") if feed_forward.gated else ("ffn_up",)
    parts = tuple((name + suffix, columns, length) for name in names)
    cutter.fused_column_parallel(prefix, parts, "ffn_up" + suffix)
    if feed_forward.has_divisors:
        cutter.part_of_vector(prefix + "ffn.act.scales", columns, length)
    cutter.row_parallel(prefix + "ffn_down" + suffix, columns, length)
    if feed_forward.row_gate:
        cutter.row_vector(prefix + feed_forward.row_gate)


def _cut_experts(cutter: Cutter, prefix: str, experts: ExpertsSpec, share: LayerShare) -> None:
    """Every rank has the whole router."""
    cutter.column_parallel(
        prefix + "ffn_gate_inp", Rows(prefix + "ffn_gate_inp", experts.count), Span(0, experts.count)
    )
    if prefix + EXPERT_BIAS in cutter.tensors:
        cutter.vector(prefix + EXPERT_BIAS, experts.count)
    cut = ExpertCut(experts.count, share.experts, share.expert_columns, experts.length)
    names, fused = (prefix + "ffn_gate_exps", prefix + "ffn_up_exps"), prefix + "ffn_gate_up_exps"
    is_fused = fused + ".weight" in cutter.tensors
    for index, name in enumerate(names):
        total = experts.length * (len(names) if is_fused else 1)
        rows = Rows(fused if is_fused else name, total, index * experts.length if is_fused else 0)
        cutter.experts_column_parallel(name, rows, cut)
    cutter.experts_row_parallel(prefix + "ffn_down_exps", cut)


EXPERT_BIAS = "exp_probs_b.bias"  # what is added to the routers' probabilities to choose by

# Read on the host, or folded into the rope table: known, but no rank's shard.
EMBEDDING = "token_embd.weight"


def check_tensors(spec: ModelSpec, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises ModelError for missing tensors, wrong shapes, and tensors that nothing would read."""
    everything = make_plan(spec, [1.0])[0]
    on_host: dict[str, tuple[int, ...]] = {EMBEDDING: (spec.vocabulary_size, spec.embedding_length)}
    for rope in spec.ropes:
        names = (rope.factors, rope.long_factors)
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
