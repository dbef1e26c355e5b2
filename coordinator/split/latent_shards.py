"""Cuts the tensors of latent attention for a rank."""

from __future__ import annotations

from tplaunch.coordinator.model.attention import Latent
from tplaunch.coordinator.model.spec import AttentionSpec
from tplaunch.coordinator.split.cutter import Cutter
from tplaunch.coordinator.split.plan import LayerShare, Span
from tplaunch.coordinator.split.shards import Shard


def cut_latent_attention(
    cutter: Cutter, prefix: str, attention: AttentionSpec, latent: Latent, share: LayerShare
) -> None:
    """Replicates what makes the latent on ranks with heads, and cuts what belongs to a head."""
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
        _keys_and_values(cutter, both, key, value, shape, latent.rank, heads)
    else:
        _head_matrices(cutter, key, (count, latent.rank, latent.nope_length), heads)
        _head_matrices(cutter, value, (count, latent.value_length, latent.rank), heads)
    attended = heads.scaled(latent.value_length)
    cutter.row_parallel(prefix + "attn_output", attended, count * latent.value_length)


def _head_matrices(cutter: Cutter, name: str, shape: tuple[int, int, int], heads: Span) -> None:
    """A matrix for each head [heads, rows, columns]."""
    _, rows, columns = shape
    tensor = cutter.find(name + ".weight", shape)
    cutter.shards[tensor.name] = Shard(tensor.name, tensor.type, heads.scaled(rows), Span(0, columns), 0)


def _keys_and_values(
    cutter: Cutter, name: str, key: str, value: str, shape: tuple[int, int, int], rank: int, heads: Span
) -> None:
    """Cuts a tensor with each head's keys and values [heads * rows, rank] into two, as _head_matrices does.

    shape: heads, and rows of the keys and of the values. The keys' matrices lie the other way round.
    """
    count, key_rows, value_rows = shape
    total = key_rows + value_rows
    tensor = cutter.find(name + ".weight", (count * total, rank))
    keys, values, columns = Span(0, key_rows), Span(key_rows, total), Span(0, rank)
    cutter.shards[key + ".weight"] = Shard(tensor.name, "F32", columns, keys, 0, heads, total, True)
    cutter.shards[value + ".weight"] = Shard(tensor.name, tensor.type, values, columns, 0, heads, total)
