"""Variants of models with recurrent layers."""

from __future__ import annotations

from tests.conformance.variant import Keys, Tensors, Variant

THREE_HEADS_A_GROUP: Keys = {"ssm.time_step_rank": 6, "ssm.inner_size": 768}
SIX_HEADS: Tensors = {  # of the first layer, the only one with a state
    "blk.0.ssm_conv1d.weight": (1280, 4),
    "blk.0.ssm_a": (6,),
    "blk.0.ssm_dt.bias": (6,),
    "blk.0.ssm_out.weight": (256, 768),
}
SIX_HEADS_APART: Tensors = {
    "blk.0.attn_qkv.weight": (1280, 256),
    "blk.0.attn_gate.weight": (768, 256),
}
QWEN35_ROPE: Keys = {
    "rope.dimension_count": 64,
    "rope.dimension_sections": [11, 11, 10, 0],
}
RECURRENT_SCALES: Tensors = {
    **{f"blk.0.{product}.scale": (1,) for product in ("attn_qkv", "attn_gate", "ssm_beta", "ssm_out")},
    **{f"blk.*.ffn_{product}.scale": (1,) for product in ("gate", "down")},
}
RECURRENT: dict[str, Variant] = {
    "qwen35-epsilon": Variant(
        "qwen35-dense",
        {"attention.layer_norm_rms_epsilon": 1.0, "ssm.state_size": 16, "ssm.inner_size": 32},
        {
            "blk.0.attn_qkv.weight": (96, 256),
            "blk.0.attn_gate.weight": (32, 256),
            "blk.0.ssm_conv1d.weight": (96, 4),
            "blk.0.ssm_norm.weight": (16,),
            "blk.0.ssm_out.weight": (256, 32),
        },
    ),
    "qwen35-heads": Variant(
        "qwen35-dense",
        {**THREE_HEADS_A_GROUP, **QWEN35_ROPE},
        {
            **SIX_HEADS,
            **SIX_HEADS_APART,
            "blk.0.ssm_alpha.weight": (6, 256),
            "blk.0.ssm_beta.weight": (6, 256),
        },
        num_tokens=144,
    ),
    "qwen35-scales": Variant("qwen35-dense", tensors=RECURRENT_SCALES),
    "qwen35-sections": Variant("qwen35-dense", {**QWEN35_ROPE, "rope.dimension_sections": [16, 0, 0, 0]}),
    "qwen35moe-files": Variant(
        "qwen35moe-moe",
        {**QWEN35_ROPE, "feed_forward_length": None},
        {"blk.*.ffn_gate_inp_shexp.weight": (1, 256)},
    ),
    "qwen3next-heads": Variant(
        "qwen3next-moe",
        THREE_HEADS_A_GROUP,
        {**SIX_HEADS, **SIX_HEADS_APART, "blk.0.ssm_in.weight": None, "blk.0.ssm_ba.weight": (12, 256)},
        num_tokens=144,
    ),
    "qwen3next-older": Variant(
        "qwen3next-moe",
        THREE_HEADS_A_GROUP,
        {
            **SIX_HEADS,
            **dict.fromkeys(SIX_HEADS_APART),
            "blk.0.ssm_in.weight": (2048, 256),
            "blk.0.ssm_ba.weight": (12, 256),
        },
    ),
}
