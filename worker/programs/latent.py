"""The operations of latent attention before and behind attention itself."""

from __future__ import annotations

from tplaunch.coordinator.model.attention import Latent
from tplaunch.worker.buffers.attention import ATTENDED, QUERY, QUERY_LATENT
from tplaunch.worker.ops.attention import AttentionHeads, HeadNorm
from tplaunch.worker.ops.latent import CopyHeads, HeadParts, HeadProducts
from tplaunch.worker.programs.builder import ProgramBuilder


def latent_products(builder: ProgramBuilder, index: int, latent: Latent, heads: AttentionHeads) -> None:
    """Multiplies the normed rows into qkv: queries multiplied by the keys' matrices, and the key."""
    layer, key = f"blk.{index}", heads.first_key
    if latent.query_rank:
        builder.matmul(f"{layer}.attn_q_a", "normed", QUERY_LATENT)
        builder.add(_norm(builder, f"{layer}.attn_q_a_norm", latent.query_rank, QUERY_LATENT, 0))
        builder.matmul(f"{layer}.attn_q_b", QUERY_LATENT, QUERY)
    else:
        builder.matmul(f"{layer}.attn_q", "normed", QUERY)
    builder.matmul(f"{layer}.attn_kv_a_mqa", "normed", "qkv", offset=key)
    builder.add(_norm(builder, f"{layer}.attn_kv_a_norm", latent.rank, "qkv", key))
    output = HeadParts("qkv", heads.query_stride)
    query = HeadParts(QUERY, latent.query_length)
    builder.add(HeadProducts(builder.matrix(f"{layer}.attn_k_b"), heads.num_heads, query, output))
    rotated = HeadParts(QUERY, latent.query_length, latent.nope_length)
    output = HeadParts("qkv", heads.query_stride, latent.rank)
    builder.add(CopyHeads(heads.num_heads, latent.rope_length, rotated, output))


def _norm(builder: ProgramBuilder, tensor: str, length: int, buffer: str, offset: int) -> HeadNorm:
    epsilon = builder.spec.norm.epsilon
    heads = AttentionHeads(1, 0, length, length)
    return HeadNorm(heads, epsilon, f"{tensor}.weight", None, buffer=buffer, offset=offset)


def attended_products(
    builder: ProgramBuilder, index: int, latent: Latent, num_heads: int, offset: int
) -> None:
    """Multiplies the heads' attention outputs by the values' matrices."""
    attended = HeadParts("attended", latent.value_length, offset)
    matrix = builder.matrix(f"blk.{index}.attn_v_b")
    builder.add(HeadProducts(matrix, num_heads, HeadParts(ATTENDED, latent.rank), attended))
