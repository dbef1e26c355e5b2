"""Variants of models whose layers attend, and of what all files may hold."""

from __future__ import annotations

from tests.conformance.variant import SCALES, YARN, Keys, Tensors, Variant

LONGROPE: Keys = {
    "rope.scaling.type": "longrope",
    "rope.scaling.attn_factor": 1.19,
    "rope.scaling.original_context_length": 128,
}
LONGROPE_FACTORS: Tensors = {
    "rope_freqs.weight": None,
    "rope_factors_long.weight": (16,),
    "rope_factors_short.weight": (16,),
}
NO_BIASES: Tensors = {f"blk.*.attn_{kind}.bias": None for kind in "qkv"}
LOCAL: Keys = {"attention.sliding_window": 20, "attention.sliding_window_pattern": None}
MEANINGLESS: Keys = {  # for most architectures
    "attention.scale": 0.1,
    "attention.clamp_kqv": 0.3,
    "attention.max_alibi_bias": 8.0,
    "attention.sliding_window": 8,
    "embedding_scale": 3.0,
    "residual_scale": 0.2,
    "logit_scale": 3.0,
    "attn_logit_softcapping": 3.0,
    "final_logit_softcapping": 3.0,
    "expert_weights_scale": 2.5,
    "expert_gating_func": 2,
    "rope.scaling.finetuned": False,
    "rope.dimension_sections": [8, 4, 4, 0],
    "rope.scaling.alpha": 2.0,
    "rope.scaling.yarn_beta_fast": 4.0,
    "rope.scaling.yarn_beta_slow": 2.0,
    "rope.scaling.yarn_log_multiplier": 0.7,
}
TEMPERED: Keys = {
    **YARN,
    "rope.scaling.yarn_log_multiplier": 1.0,
    "attention.temperature_scale": 0.1,
}
PLAIN: Tensors = {"rope_freqs.weight": None}
DENSE_SCALES: Tensors = {  # as files of NVFP4 have
    f"blk.*.{product}.{suffix}": (1,)
    for product in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for suffix in ("scale", "input_scale")
}
DENSE: dict[str, Variant] = {
    "ernie4_5-moe-keys": Variant("ernie4_5-moe-moe", {**YARN, **MEANINGLESS}),
    "exaone4-windows": Variant(
        "exaone4-dense",
        {"attention.sliding_window": 16, "rope.freq_base_swa": 500.0, "feed_forward_length": [32] * 64},
        {
            "blk.*.ffn_gate.weight": (32, 256),
            "blk.*.ffn_up.weight": (32, 256),
            "blk.*.ffn_down.weight": (256, 32),
        },
        num_layers=64,
    ),
    "gemma3-linear": Variant(
        "gemma3-dense",
        {**LOCAL, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "rope.freq_base": 1e6},
        {**NO_BIASES, "output.weight": None},
        num_layers=7,
    ),
    "glm4-pictures": Variant(
        "glm4-dense", {"rope.dimension_count": 16, "rope.dimension_sections": [2, 3, 3, 0]}, NO_BIASES
    ),
    "gpt-oss-keys": Variant("gpt-oss-moe", {**YARN, **MEANINGLESS, "rope.scaling.factor": 32.0}),
    "gpt-oss-yarn": Variant("gpt-oss-moe", {**YARN, "rope.scaling.factor": 32.0}),
    "granite-scales": Variant("granite-dense", SCALES),
    "hunyuan-dense-alpha": Variant(
        "hunyuan-dense-dense",
        {
            "rope.scaling.type": "none",
            "rope.scaling.alpha": 1000.0,
            "expert_count": 1,
            "expert_used_count": 1,
        },
    ),
    "llama-factor-alone": Variant("llama-dense", {"rope.scaling.factor": 4.0}, PLAIN),
    "llama-keys": Variant("llama-moe", {**YARN, **MEANINGLESS}),
    "llama-linear": Variant("llama-dense", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "llama-linear-old": Variant("llama-dense", {"rope.scaling.type": "linear", "rope.scale_linear": 4.0}),
    "llama-longrope-long": Variant("llama-dense", {**LONGROPE, "rope.scaling.factor": 2.0}, LONGROPE_FACTORS),
    "llama-longrope-short": Variant(
        "llama-dense", {**LONGROPE, "rope.scaling.original_context_length": 256}, LONGROPE_FACTORS
    ),
    "llama-none": Variant("llama-dense", {"rope.scaling.type": "none", "rope.scale_linear": 4.0}),
    "llama-split-biases": Variant(
        "llama-dense",
        tensors={
            **{f"blk.*.attn_{name}.weight": None for name in ("q", "k", "v")},
            "blk.*.attn_qkv.weight": (512, 256),
        },
    ),
    "llama-yarn": Variant("llama-dense", YARN, PLAIN),
    "llama-yarn-zero": Variant(  # the original context is the model's
        "llama-dense", {**YARN, "rope.scaling.original_context_length": 0}, PLAIN
    ),
    "llama4-keys": Variant("llama4-moe", {**YARN, **MEANINGLESS, "attention.chunk_size": 16}),
    "mistral3-keys": Variant(
        "mistral3-dense", {**MEANINGLESS, **TEMPERED, "attention.temperature_length": 10}
    ),
    "mistral3-tempered": Variant("mistral3-dense", TEMPERED, num_tokens=144),
    "mistral3-zero-multiplier": Variant("mistral3-dense", {**YARN, "rope.scaling.yarn_log_multiplier": 0.0}),
    "olmo2-yarn": Variant("olmo2-dense", {**LOCAL, **YARN}, NO_BIASES, num_layers=8, num_tokens=100),
    "phi3-partial-longrope": Variant(
        "phi3-dense",
        {**LONGROPE, "rope.scaling.original_context_length": 64, "rope.dimension_count": 24},
        {**NO_BIASES, "rope_factors_long.weight": (12,), "rope_factors_short.weight": (12,)},
    ),
    "qwen2-fused-qkv": Variant(
        "qwen2-dense",
        tensors={
            **{f"blk.*.attn_{part}.weight": None for part in "qkv"},
            "blk.*.attn_qkv.weight": (512, 256),
        },
    ),
    "qwen2-tied": Variant("qwen2-dense", tensors={"output.weight": None}),
    "qwen3-scales": Variant("qwen3-dense", tensors=DENSE_SCALES),
    "stablelm-told-parallel": Variant("stablelm-dense", {"use_parallel_residual": True}),
}
