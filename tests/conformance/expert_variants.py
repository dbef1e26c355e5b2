"""Variants of models with experts, most of them with latent attention."""

from __future__ import annotations

from tests.conformance.variant import SCALES, YARN, Keys, Tensors, Variant

GROUPS: Keys = {
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_group_count": 4,
    "expert_group_used_count": 2,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
}
EIGHT_EXPERTS: Tensors = {
    "blk.1.ffn_gate_inp.weight": (8, 128),
    "blk.1.ffn_down_exps.weight": (8, 128, 192),
    "blk.1.ffn_gate_up_exps.weight": (8, 384, 128),
    "blk.1.exp_probs_b.bias": (8,),
}
NO_NORMS: Tensors = {f"blk.*.attn_{kind}_norm.weight": None for kind in "qk"}
PREDICTING: Tensors = {  # of a multi-token-prediction block
    "blk.3.nextn.eh_proj.weight": (256, 512),
    "blk.3.nextn.enorm.weight": (256,),
    "blk.3.nextn.hnorm.weight": (256,),
    "blk.3.nextn.shared_head_norm.weight": (256,),
}
AIR: Keys = {
    "attention.head_count_kv": [4] * 4,
    "expert_group_count": 1,
    "expert_group_used_count": 1,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
    "nextn_predict_layers": 1,
    "rope.dimension_count": 16,
    "rope.dimension_sections": None,
}
MULTIPLIED: Keys = {**YARN, "rope.scaling.yarn_log_multiplier": 0.0707}
EXPERTS: Tensors = {
    **{
        f"blk.*.ffn_{name}.{suffix}": None for name in ("gate", "up", "down") for suffix in ("weight", "bias")
    },
    "blk.*.ffn_gate_inp.weight": (4, 256),
    "blk.*.ffn_gate_exps.weight": (4, 96, 256),
    "blk.*.ffn_up_exps.weight": (4, 96, 256),
    "blk.*.ffn_down_exps.weight": (4, 256, 96),
}
FOUR_EXPERTS: Keys = {
    "expert_count": 4,
    "expert_used_count": 2,
    "feed_forward_length": 96,
}
LITE: Keys = {  # DeepSeek-V2-Lite's layers, small, and a rank of queries that they don't have
    "attention.head_count": 2,
    "attention.kv_lora_rank": 32,
    "attention.q_lora_rank": 24,
    "attention.key_length": 40,
    "attention.value_length": 32,
    "attention.key_length_mla": 24,
    "attention.value_length_mla": 12,
    "rope.dimension_count": 8,
    "feed_forward_length": 64,
    "expert_feed_forward_length": 16,
    "leading_dense_block_count": 26,
}
LITE_TENSORS: Tensors = {
    **{f"blk.*.attn_q_{name}.weight": None for name in ("a", "a_norm", "b")},
    "blk.*.attn_q.weight": (48, 128),
    "blk.*.attn_kv_a_mqa.weight": (40, 128),
    "blk.*.attn_kv_a_norm.weight": (32,),
    "blk.*.attn_k_b.weight": (2, 32, 16),
    "blk.*.attn_v_b.weight": (2, 12, 32),
    "blk.*.attn_output.weight": (128, 24),
    "blk.*.ffn_gate_inp.weight": None,
    "blk.*.exp_probs_b.bias": None,
    **{f"blk.*.ffn_{name}.weight": None for name in ("gate_up_exps", "down_exps")},
    **{f"blk.*.ffn_{name}_shexp.weight": None for name in ("gate", "up", "down")},
    "blk.*.ffn_gate.weight": (64, 128),
    "blk.*.ffn_up.weight": (64, 128),
    "blk.*.ffn_down.weight": (128, 64),
}
UNDIVIDED: Tensors = {
    "blk.*.attn_k_b.weight": None,
    "blk.*.attn_v_b.weight": None,
    "blk.*.attn_kv_b.weight": (4 * (128 + 128), 512),
    "blk.*.attn_q_b.weight": (4 * 192, 512),
    "blk.*.attn_output.weight": (128, 4 * 128),
}
EXPERT_SCALES: Tensors = {
    **{f"blk.*.{product}.scale": (1,) for product in ("attn_k", "attn_output")},
    **{
        f"blk.*.ffn_{product}_exps.{suffix}": (4,)
        for product in ("gate", "up", "down")
        for suffix in ("scale", "input_scale")
    },
}
EXPERT: dict[str, Variant] = {
    "deepseek2-fast-turns": Variant(
        "deepseek2-moe", {**MULTIPLIED, "rope.scaling.yarn_beta_fast": 1.0}
    ),  # Kimi K2
    "deepseek2-groups": Variant("deepseek2-moe", GROUPS, EIGHT_EXPERTS),
    "deepseek2-linear": Variant(
        "deepseek2-moe",
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "rope.scaling.yarn_log_multiplier": 0.1},
    ),
    "deepseek2-lite": Variant(
        "deepseek2-moe", {**LITE, "expert_count": None, "expert_used_count": None}, LITE_TENSORS, 26
    ),
    "deepseek2-undivided": Variant(  # as files were before llama.cpp had the absorbed form
        "deepseek2-moe",
        {
            **MULTIPLIED,
            "attention.head_count": 4,
            "attention.head_count_kv": 4,
            "attention.key_length": 192,
            "attention.value_length": 128,
            "attention.key_length_mla": None,
            "attention.value_length_mla": None,
        },
        UNDIVIDED,
    ),
    "deepseek2-yarn": Variant("deepseek2-moe", MULTIPLIED),
    "glm4moe-air": Variant("glm4moe-moe", AIR, {**NO_NORMS, **PREDICTING}, num_layers=4),
    "granite-experts": Variant("granite-dense", FOUR_EXPERTS, EXPERTS),
    "granitemoe-scales": Variant("granitemoe-moe", {**SCALES, "rope.scaling.finetuned": False}),
    "mistral3-experts": Variant("mistral3-dense", FOUR_EXPERTS, EXPERTS),
    "mistral4-yarn": Variant("mistral4-moe", MULTIPLIED),
    "qwen3moe-scales": Variant("qwen3moe-moe", tensors=EXPERT_SCALES),
}
