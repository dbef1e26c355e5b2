"""Metadata of models whose layers are not alike, without the architecture before each key."""

from __future__ import annotations

from typing import Any

GEMMA_3_270M: dict[str, Any] = {
    "block_count": 18,
    "context_length": 32768,
    "embedding_length": 640,
    "feed_forward_length": 2048,
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.sliding_window": 512,
    "rope.freq_base": 1e6,
}
QWEN_3_5_800M: dict[str, Any] = {
    "block_count": 24,
    "context_length": 262144,
    "embedding_length": 1024,
    "feed_forward_length": 3584,
    "attention.head_count": 8,
    "attention.head_count_kv": 2,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "full_attention_interval": 4,
    "rope.dimension_count": 64,
    "rope.dimension_sections": [11, 11, 10, 0],
    "rope.freq_base": 1e7,
    "ssm.conv_kernel": 4,
    "ssm.group_count": 16,
    "ssm.inner_size": 2048,
    "ssm.state_size": 128,
    "ssm.time_step_rank": 16,
}
