"""What real files have and the reference models lack: other keys, further tensors, more layers."""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Value = bool | int | float | str | list[bool] | list[int] | list[float]
Shape = tuple[int, ...]

FOLDER = Path(__file__).parent / "variants"  # NAME.npz each: tokens; llama.cpp's logits of the last 8
TYPES = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}  # of GGUF


@dataclass(frozen=True)
class Variant:
    """A reference model, changed. None takes a key or a tensor away; `blk.*` is every layer."""

    model: str
    keys: Mapping[str, Value | None] = field(default_factory=dict)  # without the architecture in front
    tensors: Mapping[str, Shape | None] = field(default_factory=dict)  # rows first
    num_layers: int | None = None  # those beyond the model's have the tensors of its last
    seed: int = 100
    num_tokens: int = 64
    context: int = 256  # of llama.cpp a multiple of 256

    def spec(self, specs: Mapping[str, Any]) -> dict[str, Any]:
        """What the builder of reference models writes; specs: those of the unchanged models."""
        spec: dict[str, Any] = copy.deepcopy(specs[self.model])
        arch, keys = spec["arch"], {key: value for key, *value in spec["kv"]}
        shapes = dict(spec["tensors"])
        old_count = keys[f"{arch}.block_count"][2]
        count = self.num_layers or old_count
        for index in range(old_count, count):
            last = f"blk.{old_count - 1}."
            shapes |= {
                name.replace(last, f"blk.{index}."): shape
                for name, shape in spec["tensors"]
                if name.startswith(last)
            }
        for key, new in {"block_count": count, **self.keys}.items():
            keys.pop(f"{arch}.{key}", None)
            if new is not None:
                keys[f"{arch}.{key}"] = _typed(new)
        for pattern, wanted in self.tensors.items():
            for name in dict.fromkeys(pattern.replace("*", str(index)) for index in range(count)):
                shapes.pop(name, None)
                if wanted is not None:
                    shapes[name] = list(wanted)
        spec["kv"] = [[key, *typed] for key, typed in keys.items()]
        spec["tensors"] = [[name, shape] for name, shape in shapes.items()]
        return spec

    def build(self, builder: types.ModuleType, path: Path) -> None:
        """Writes the file. builder: the module that rebuilds the reference models."""
        builder.write(self.spec(builder.specs()), path, self.seed)


def _typed(value: Value) -> list[Any]:
    """GGUF's type, that of an array's elements, and the value."""
    if isinstance(value, list):
        return ["ARRAY", TYPES[type(value[0])], value]
    return [TYPES[type(value)], None, value]


YARN: dict[str, Value | None] = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
}
LONGROPE: dict[str, Value | None] = {
    "rope.scaling.type": "longrope",
    "rope.scaling.attn_factor": 1.19,
    "rope.scaling.original_context_length": 128,
}
LONGROPE_FACTORS: dict[str, Shape | None] = {
    "rope_freqs.weight": None,
    "rope_factors_long.weight": (16,),
    "rope_factors_short.weight": (16,),
}
GROUPS: dict[str, Value | None] = {
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_group_count": 4,
    "expert_group_used_count": 2,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
}
EIGHT_EXPERTS: dict[str, Shape | None] = {
    "blk.1.ffn_gate_inp.weight": (8, 128),
    "blk.1.ffn_down_exps.weight": (8, 128, 192),
    "blk.1.ffn_gate_up_exps.weight": (8, 384, 128),
    "blk.1.exp_probs_b.bias": (8,),
}
NO_BIASES: dict[str, Shape | None] = {f"blk.*.attn_{kind}.bias": None for kind in "qkv"}
NO_NORMS: dict[str, Shape | None] = {f"blk.*.attn_{kind}_norm.weight": None for kind in "qk"}
PREDICTING: dict[str, Shape | None] = {  # of a block that only predicts further ahead
    "blk.3.nextn.eh_proj.weight": (256, 512),
    "blk.3.nextn.enorm.weight": (256,),
    "blk.3.nextn.hnorm.weight": (256,),
    "blk.3.nextn.shared_head_norm.weight": (256,),
}
AIR: dict[str, Value | None] = {
    "attention.head_count_kv": [4] * 4,
    "expert_group_count": 1,
    "expert_group_used_count": 1,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
    "nextn_predict_layers": 1,
    "rope.dimension_count": 16,
    "rope.dimension_sections": None,
}
LOCAL: dict[str, Value | None] = {"attention.sliding_window": 20, "attention.sliding_window_pattern": None}
MEANINGLESS: dict[str, Value | None] = {  # for most architectures
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
    "rope.scaling.yarn_beta_fast": 4.0,
    "rope.scaling.yarn_beta_slow": 2.0,
    "rope.scaling.yarn_log_multiplier": 0.7,
}
MULTIPLIED: dict[str, Value | None] = {**YARN, "rope.scaling.yarn_log_multiplier": 0.0707}
TEMPERED: dict[str, Value | None] = {
    **YARN,
    "rope.scaling.yarn_log_multiplier": 1.0,
    "attention.temperature_scale": 0.1,
}
PLAIN: dict[str, Shape | None] = {"rope_freqs.weight": None}
EXPERTS: dict[str, Shape | None] = {
    **{
        f"blk.*.ffn_{name}.{suffix}": None for name in ("gate", "up", "down") for suffix in ("weight", "bias")
    },
    "blk.*.ffn_gate_inp.weight": (4, 256),
    "blk.*.ffn_gate_exps.weight": (4, 96, 256),
    "blk.*.ffn_up_exps.weight": (4, 96, 256),
    "blk.*.ffn_down_exps.weight": (4, 256, 96),
}
FOUR_EXPERTS: dict[str, Value | None] = {
    "expert_count": 4,
    "expert_used_count": 2,
    "feed_forward_length": 96,
}
SCALES: dict[str, Value | None] = {
    "attention.scale": 0.015625,
    "embedding_scale": 12.0,
    "residual_scale": 0.22,
    "logit_scale": 6.0,
}
LITE: dict[
    str, Value | None
] = {  # DeepSeek-V2-Lite's layers, small, and a rank of queries that they don't have
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
LITE_TENSORS: dict[str, Shape | None] = {
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
UNDIVIDED: dict[str, Shape | None] = {
    "blk.*.attn_k_b.weight": None,
    "blk.*.attn_v_b.weight": None,
    "blk.*.attn_kv_b.weight": (4 * (128 + 128), 512),
    "blk.*.attn_q_b.weight": (4 * 192, 512),
    "blk.*.attn_output.weight": (128, 4 * 128),
}
THREE_HEADS_A_GROUP: dict[str, Value | None] = {"ssm.time_step_rank": 6, "ssm.inner_size": 768}
SIX_HEADS: dict[str, Shape | None] = {  # of the first layer, the only one with a state
    "blk.0.ssm_conv1d.weight": (1280, 4),
    "blk.0.ssm_a": (6,),
    "blk.0.ssm_dt.bias": (6,),
    "blk.0.ssm_out.weight": (256, 768),
}
SIX_HEADS_APART: dict[str, Shape | None] = {
    "blk.0.attn_qkv.weight": (1280, 256),
    "blk.0.attn_gate.weight": (768, 256),
}
QWEN35_ROPE: dict[str, Value | None] = {
    "rope.dimension_count": 64,
    "rope.dimension_sections": [11, 11, 10, 0],
}
DENSE_SCALES: dict[str, Shape | None] = {  # as files of NVFP4 have
    f"blk.*.{product}.{suffix}": (1,)
    for product in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for suffix in ("scale", "input_scale")
}
EXPERT_SCALES: dict[str, Shape | None] = {
    **{f"blk.*.{product}.scale": (1,) for product in ("attn_k", "attn_output")},
    **{
        f"blk.*.ffn_{product}_exps.{suffix}": (4,)
        for product in ("gate", "up", "down")
        for suffix in ("scale", "input_scale")
    },
}
RECURRENT_SCALES: dict[str, Shape | None] = {
    **{f"blk.0.{product}.scale": (1,) for product in ("attn_qkv", "attn_gate", "ssm_beta", "ssm_out")},
    **{f"blk.*.ffn_{product}.scale": (1,) for product in ("gate", "down")},
}
VARIANTS: dict[str, Variant] = {
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
    "ernie4_5-moe-keys": Variant("ernie4_5-moe-moe", {**YARN, **MEANINGLESS}),
    "exaone4-windows": Variant(
        "exaone4-dense",
        {"attention.sliding_window": 16, "rope.freq_base_swa": 500.0, "feed_forward_length": [512] * 64},
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
    "glm4moe-air": Variant("glm4moe-moe", AIR, {**NO_NORMS, **PREDICTING}, num_layers=4),
    "gpt-oss-keys": Variant("gpt-oss-moe", {**YARN, **MEANINGLESS, "rope.scaling.factor": 32.0}),
    "gpt-oss-yarn": Variant("gpt-oss-moe", {**YARN, "rope.scaling.factor": 32.0}),
    "granite-experts": Variant("granite-dense", FOUR_EXPERTS, EXPERTS),
    "granite-scales": Variant("granite-dense", SCALES),
    "granitemoe-scales": Variant("granitemoe-moe", {**SCALES, "rope.scaling.finetuned": False}),
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
    "llama-yarn-turns": Variant(
        "llama-dense",
        {**YARN, "rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_log_multiplier": 0.5},
    ),
    "llama-yarn-zero": Variant(  # the original context is the model's
        "llama-dense", {**YARN, "rope.scaling.original_context_length": 0}, PLAIN
    ),
    "llama4-keys": Variant("llama4-moe", {**YARN, **MEANINGLESS, "attention.chunk_size": 16}),
    "mistral3-experts": Variant("mistral3-dense", FOUR_EXPERTS, EXPERTS),
    "mistral3-keys": Variant(
        "mistral3-dense", {**MEANINGLESS, **TEMPERED, "attention.temperature_length": 10}
    ),
    "mistral3-tempered": Variant("mistral3-dense", TEMPERED, num_tokens=144),
    "mistral3-zero-multiplier": Variant("mistral3-dense", {**YARN, "rope.scaling.yarn_log_multiplier": 0.0}),
    "mistral4-yarn": Variant("mistral4-moe", MULTIPLIED),
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
    "qwen3moe-scales": Variant("qwen3moe-moe", tensors=EXPERT_SCALES),
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
    "stablelm-told-parallel": Variant("stablelm-dense", {"use_parallel_residual": True}),
}
