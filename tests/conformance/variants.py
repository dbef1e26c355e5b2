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
VARIANTS: dict[str, Variant] = {
    "deepseek2-groups": Variant("deepseek2-moe", GROUPS, EIGHT_EXPERTS),
    "deepseek2-yarn": Variant("deepseek2-moe", {**YARN, "rope.scaling.yarn_log_multiplier": 0.0707}),
    "gpt-oss-yarn": Variant("gpt-oss-moe", {**YARN, "rope.scaling.factor": 32.0}),
    "hunyuan-dense-alpha": Variant(
        "hunyuan-dense-dense",
        {
            "rope.scaling.type": "none",
            "rope.scaling.alpha": 1000.0,
            "expert_count": 1,
            "expert_used_count": 1,
        },
    ),
    "llama-linear": Variant("llama-dense", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "llama-longrope-long": Variant("llama-dense", LONGROPE, LONGROPE_FACTORS),
    "llama-longrope-short": Variant(
        "llama-dense", {**LONGROPE, "rope.scaling.original_context_length": 256}, LONGROPE_FACTORS
    ),
    "llama-yarn": Variant("llama-dense", YARN, {"rope_freqs.weight": None}),
    "mistral3-tempered": Variant(
        "mistral3-dense",
        {**YARN, "rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.1},
        num_tokens=144,
    ),
    "qwen2-tied": Variant("qwen2-dense", tensors={"output.weight": None}),
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
    "qwen35-sections": Variant("qwen35-dense", {**QWEN35_ROPE, "rope.dimension_sections": [16, 0, 0, 0]}),
    "qwen35moe-files": Variant(
        "qwen35moe-moe",
        {**QWEN35_ROPE, "feed_forward_length": None},
        {"blk.*.ffn_gate_inp_shexp.weight": (1, 256)},
    ),
}
