"""Variants with features of real files that the reference models lack: keys, tensors, more layers."""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Value = bool | int | float | str | list[bool] | list[int] | list[float]
Shape = tuple[int, ...]
Keys = dict[str, Value | None]
Tensors = dict[str, Shape | None]

FOLDER = Path(__file__).parent / "variants"  # NAME.npz each: tokens; llama.cpp's logits of the last 8
TYPES = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}  # of GGUF


@dataclass(frozen=True)
class Variant:
    """A reference model, changed. None takes a key or a tensor away; `blk.*` is every layer."""

    model: str
    keys: Keys = field(default_factory=dict)  # without the architecture in front
    tensors: Tensors = field(default_factory=dict)  # rows first
    num_layers: int | None = None  # those beyond the model's have the tensors of its last
    seed: int = 100
    num_tokens: int = 64
    context: int = 256  # of llama.cpp a multiple of 256

    def spec(self, specs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the spec for the builder of reference models; specs: those of the unchanged models."""
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


YARN: Keys = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
}
SCALES: Keys = {
    "attention.scale": 0.015625,
    "embedding_scale": 12.0,
    "residual_scale": 0.22,
    "logit_scale": 6.0,
}
