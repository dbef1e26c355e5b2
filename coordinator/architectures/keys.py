"""Keys that llama.cpp reads for some architectures only (src/models/*.cpp); elsewhere they mean nothing."""

from __future__ import annotations

GRANITES = ("granite", "granitemoe")
LATENT = ("deepseek2", "mistral4")
CHOOSING = (*LATENT, "bailingmoe2", "dots1", "glm4moe")  # how experts are weighed
READERS: dict[str, tuple[str, ...]] = {
    "attention.scale": GRANITES,
    "attn_logit_softcapping": ("gemma2",),
    "embedding_scale": GRANITES,
    "residual_scale": GRANITES,
    "logit_scale": (*GRANITES, "cohere2", "command-r"),
    "final_logit_softcapping": ("gemma2", "gemma3"),
    "attention.clamp_kqv": ("mpt",),
    "attention.max_alibi_bias": ("mpt",),
    "attention.temperature_length": LATENT,
    "rope.freq_base_swa": ("gemma2", "gemma3", "gpt-oss", "llama4"),
    "rope.dimension_sections": ("glm4", "glm4moe", "qwen35", "qwen35moe"),
    "rope.scaling.alpha": ("hunyuan-dense",),
    "rope.scaling.finetuned": ("granite",),  # whether there is any rope
    "rope.scaling.yarn_beta_fast": ("mistral3",),
    "rope.scaling.yarn_beta_slow": ("mistral3",),
    "rope.scaling.yarn_log_multiplier": (*LATENT, "mistral3"),
    "expert_gating_func": (*CHOOSING, "minimax-m2"),
    "expert_weights_norm": CHOOSING,
    "expert_weights_scale": CHOOSING,
    "use_parallel_residual": ("gptneox",),
}


def ignored_keys(architecture: str) -> frozenset[str]:
    """Returns the keys of the table that an architecture's files may hold to no effect."""
    return frozenset(key for key, readers in READERS.items() if architecture not in readers)
