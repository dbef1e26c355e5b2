"""Small random models with recurrent layers, as files; the same layers in every layout that files have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tests.models import stored
from tplaunch.coordinator.split.limits import Limits

Floats = npt.NDArray[np.float32]
WIDTH, VOCABULARY, KERNEL, FFN = 32, 48, 4, 40
GROUPS, HEADS, HEAD_LENGTH, KEY = 2, 6, 16, 16  # three heads a group; a head is half a block of weights
KEYS, INNER = GROUPS * KEY, HEADS * HEAD_LENGTH
LIMITS = Limits(
    context_length=64, num_blocks=48, block_length=4, max_rows=16, max_logit_rows=16, kv_type="f32",
    num_slots=3, max_sequences=3,
)  # fmt: skip


@dataclass(frozen=True)
class RecurrentModel:
    """Metadata without the architecture's name, and tensors."""

    architecture: str
    metadata: Mapping[str, int | float | list[int]]
    tensors: Mapping[str, Floats]

    def write(self, path: Path, types: Mapping[str, str] | None = None) -> Path:
        """types: by a tensor's name behind its layer; F32 for others."""
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.metadata.items():
            name = f"{self.architecture}.{key}"
            if isinstance(value, list):
                writer.add_array(name, value)
            elif isinstance(value, float):
                writer.add_float32(name, value)
            else:
                writer.add_uint32(name, value)
        for name, values in self.tensors.items():
            weight_type = (types or {}).get(name.split(".", 2)[-1], "F32")
            raw, _ = stored(np.ascontiguousarray(values), weight_type, np.random.default_rng(0))
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[weight_type])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


class _Maker:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.tensors: dict[str, Floats] = {}

    def values(self, *shape: int, scale: float = 1.0) -> Floats:
        return scale * self._random.standard_normal(shape).astype(np.float32) / np.float32(shape[-1] ** 0.5)

    def matrix(self, name: str, *shape: int) -> None:
        self.tensors[name + ".weight"] = self.values(*shape, scale=2.0)

    def norm(self, name: str, *shape: int) -> None:
        self.tensors[name + ".weight"] = 1 + self.values(*shape)

    def scalars(self, layer: str, *shape: int) -> None:
        """Adds the numbers that make the states of heads decay."""
        self.tensors[f"{layer}.ssm_a"] = -np.abs(self.values(*shape)) - np.float32(0.05)
        self.tensors[f"{layer}.ssm_dt.bias"] = self.values(HEADS)

    def feed_forward(self, layer: str) -> None:
        for name in ("ffn_gate", "ffn_up"):
            self.matrix(f"{layer}.{name}", FFN, WIDTH)
        self.matrix(f"{layer}.ffn_down", WIDTH, FFN)

    def attention(self, layer: str, query_rows: int) -> None:
        self.matrix(f"{layer}.attn_q", query_rows, WIDTH)
        for name in ("attn_k", "attn_v"):
            self.matrix(f"{layer}.{name}", 16, WIDTH)
        self.matrix(f"{layer}.attn_output", WIDTH, 32)
        for name in ("attn_q_norm", "attn_k_norm"):
            self.norm(f"{layer}.{name}", 8)


METADATA: dict[str, int | float | list[int]] = {
    "block_count": 3,
    "embedding_length": WIDTH,
    "feed_forward_length": FFN,
    "context_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 8,
    "attention.value_length": 8,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
SSM: dict[str, int | float | list[int]] = {
    "ssm.conv_kernel": KERNEL,
    "ssm.inner_size": INNER,
    "ssm.state_size": KEY,
    "ssm.time_step_rank": HEADS,
    "ssm.group_count": GROUPS,
}


def _ends(maker: _Maker, output_norm: str) -> None:
    maker.tensors["token_embd.weight"] = maker.values(VOCABULARY, WIDTH, scale=6.0)
    maker.matrix("output", VOCABULARY, WIDTH)
    maker.norm(output_norm, WIDTH)


def lfm2(seed: int = 0) -> RecurrentModel:
    """The middle layer attends."""
    maker = _Maker(seed)
    _ends(maker, "token_embd_norm")
    for index in range(3):
        layer = f"blk.{index}"
        for name in ("attn_norm", "ffn_norm"):
            maker.norm(f"{layer}.{name}", WIDTH)
        maker.feed_forward(layer)
        if index == 1:
            maker.attention(layer, 32)
            continue
        maker.matrix(f"{layer}.shortconv.in_proj", 3 * WIDTH, WIDTH)
        maker.matrix(f"{layer}.shortconv.conv", WIDTH, 3)
        maker.matrix(f"{layer}.shortconv.out_proj", WIDTH, WIDTH)
    metadata = {**METADATA, "attention.head_count_kv": [0, 2, 0], "shortconv.l_cache": 3}
    return RecurrentModel("lfm2", metadata, maker.tensors)


def mamba2(seed: int = 0) -> RecurrentModel:
    maker = _Maker(seed)
    _ends(maker, "output_norm")
    for index in range(3):
        layer = f"blk.{index}"
        maker.norm(f"{layer}.attn_norm", WIDTH)
        maker.matrix(f"{layer}.ssm_in", 2 * INNER + 2 * KEYS + HEADS, WIDTH)
        maker.matrix(f"{layer}.ssm_conv1d", INNER + 2 * KEYS, KERNEL)
        maker.tensors[f"{layer}.ssm_conv1d.bias"] = maker.values(INNER + 2 * KEYS)
        maker.scalars(layer, HEADS, 1)
        maker.tensors[f"{layer}.ssm_d"] = maker.values(HEADS, 1)
        maker.norm(f"{layer}.ssm_norm", GROUPS, INNER // GROUPS)
        maker.matrix(f"{layer}.ssm_out", WIDTH, INNER)
    return RecurrentModel("mamba2", {**METADATA, **SSM, "attention.head_count": 0}, maker.tensors)


def delta(architecture: str, seed: int = 0) -> RecurrentModel:
    """Every third layer attends."""
    maker = _Maker(seed)
    _ends(maker, "output_norm")
    for index in range(3):
        layer = f"blk.{index}"
        for name in ("attn_norm", "post_attention_norm"):
            maker.norm(f"{layer}.{name}", WIDTH)
        maker.feed_forward(layer)
        if index == 2:
            maker.attention(layer, 64)
            continue
        maker.matrix(f"{layer}.attn_qkv", 2 * KEYS + INNER, WIDTH)
        maker.matrix(f"{layer}.attn_gate", INNER, WIDTH)
        maker.matrix(f"{layer}.ssm_alpha", HEADS, WIDTH)
        maker.matrix(f"{layer}.ssm_beta", HEADS, WIDTH)
        maker.matrix(f"{layer}.ssm_conv1d", 2 * KEYS + INNER, KERNEL)
        maker.scalars(layer, HEADS)
        maker.norm(f"{layer}.ssm_norm", HEAD_LENGTH)
        maker.matrix(f"{layer}.ssm_out", WIDTH, INNER)
    return RecurrentModel(architecture, {**METADATA, **SSM, "full_attention_interval": 3}, maker.tensors)


def in_turns(model: RecurrentModel) -> RecurrentModel:
    """Qwen3-Next's layers as Qwen3.5 has them: heads of a group lie apart."""
    per_group = HEADS // GROUPS
    order = np.arange(HEADS).reshape(GROUPS, per_group).T.reshape(-1)
    values = (order[:, None] * HEAD_LENGTH + np.arange(HEAD_LENGTH)).reshape(-1)
    convolved = np.concatenate((np.arange(2 * KEYS), 2 * KEYS + values))
    orders = {
        "attn_qkv.weight": convolved,
        "ssm_conv1d.weight": convolved,
        "attn_gate.weight": values,
        **dict.fromkeys(("ssm_alpha.weight", "ssm_beta.weight", "ssm_a", "ssm_dt.bias"), order),
    }
    tensors = dict(model.tensors)
    for name, tensor in model.tensors.items():
        kind = name.split(".", 2)[-1]
        if kind in orders:
            tensors[name] = tensor[orders[kind]]
        elif kind == "ssm_out.weight":
            tensors[name] = tensor[:, values]
    return RecurrentModel("qwen35", model.metadata, tensors)


def group_by_group(model: RecurrentModel, *, also_convolved: bool) -> RecurrentModel:
    """Qwen3-Next's tensors as its files have them: betas and time steps, and in older ones all else."""
    tensors = dict(model.tensors)
    for layer in ("blk.0", "blk.1"):
        alpha, beta = (
            tensors.pop(f"{layer}.{name}.weight").reshape(GROUPS, -1, WIDTH)
            for name in ("ssm_alpha", "ssm_beta")
        )
        tensors[f"{layer}.ssm_ba.weight"] = np.concatenate((beta, alpha), axis=1).reshape(-1, WIDTH)
        if not also_convolved:
            continue
        query, key, value = np.split(tensors.pop(f"{layer}.attn_qkv.weight"), [KEYS, 2 * KEYS])
        gate = tensors.pop(f"{layer}.attn_gate.weight")
        parts = [part.reshape(GROUPS, -1, WIDTH) for part in (query, key, value, gate)]
        tensors[f"{layer}.ssm_in.weight"] = np.concatenate(parts, axis=1).reshape(-1, WIDTH)
    return RecurrentModel("qwen3next", model.metadata, tensors)
