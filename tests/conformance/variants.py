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
    "deepseek2-groups": Variant("deepseek2-moe", GROUPS, EIGHT_EXPERTS),
    "deepseek2-yarn": Variant("deepseek2-moe", {**YARN, "rope.scaling.yarn_log_multiplier": 0.0707}),
    "exaone4-windows": Variant(
        "exaone4-dense",
        {"attention.sliding_window": 16, "rope.freq_base_swa": 500.0, "feed_forward_length": [512] * 64},
        num_layers=64,
    ),
    "gpt-oss-yarn": Variant("gpt-oss-moe", {**YARN, "rope.scaling.factor": 32.0}),
    "llama-factor-alone": Variant("llama-dense", {"rope.scaling.factor": 4.0}),
    "llama-linear": Variant("llama-dense", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "llama-longrope-long": Variant("llama-dense", LONGROPE, LONGROPE_FACTORS),
    "llama-longrope-short": Variant(
        "llama-dense", {**LONGROPE, "rope.scaling.original_context_length": 256}, LONGROPE_FACTORS
    ),
    "llama-yarn": Variant("llama-dense", YARN, {"rope_freqs.weight": None}),
    "llama-yarn-turns": Variant(
        "llama-dense",
        {**YARN, "rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_log_multiplier": 0.5},
    ),
    "mistral3-tempered": Variant(
        "mistral3-dense",
        {**YARN, "rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.1},
        num_tokens=144,
    ),
    "qwen2-fused-qkv": Variant(
        "qwen2-dense",
        tensors={
            **{f"blk.*.attn_{part}.weight": None for part in "qkv"},
            "blk.*.attn_qkv.weight": (512, 256),
        },
    ),
    "qwen3-scales": Variant("qwen3-dense", tensors=DENSE_SCALES),
    "qwen35-scales": Variant("qwen35-dense", tensors=RECURRENT_SCALES),
    "qwen3moe-scales": Variant("qwen3moe-moe", tensors=EXPERT_SCALES),
    "stablelm-told-parallel": Variant("stablelm-dense", {"use_parallel_residual": True}),
}
