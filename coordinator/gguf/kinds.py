"""Tells files that go with a model from models: adapters, projectors, importance matrices, vocabularies."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

# By general.type, then by general.architecture, as the gguf package and llama.cpp's tools write them.
BY_TYPE = {"adapter": "adapter", "imatrix": "imatrix", "mmproj": "projector"}
BY_ARCHITECTURE = {"clip": "projector", "controlvector": "control vector", "imatrix": "imatrix"}
# Older files say neither; what their tensors are called does.
BY_TENSOR = {
    "adapter": re.compile(r".*\.lora_[ab]"),
    "imatrix": re.compile(r".*\.(in_sum2|counts)"),
    "control vector": re.compile(r"direction\.[0-9]+"),
    "projector": re.compile(r"(v|a)\.blk\..*|mm\..*|resampler\..*"),
}
SENTENCES = {
    "adapter": "an adapter (LoRA) that changes a model: merge it with its model into one file, and give that",
    "imatrix": "an importance matrix (imatrix) by which a model is quantised; give the model's own file",
    "projector": "a projector (mmproj) that shows pictures or sound to a model; give the model's own file",
    "control vector": "a control vector that steers a model; give the model's own file",
}


def no_model(metadata: Mapping[str, Any], tensors: Collection[str]) -> str:
    """Why a file is no model, as the end of a sentence that begins with its name; "" for what may be one."""
    if not tensors:
        has_texts = "tokenizer.ggml.tokens" in metadata
        return (
            f"holds no tensors, only {'a vocabulary' if has_texts else 'metadata'}: there is nothing to run"
        )
    kind = _kind(metadata, tensors)
    return f"is no model, but {SENTENCES[kind]}" if kind else ""


def _kind(metadata: Mapping[str, Any], tensors: Collection[str]) -> str:
    for key, kinds in (("general.type", BY_TYPE), ("general.architecture", BY_ARCHITECTURE)):
        value = metadata.get(key)
        if isinstance(value, str) and value in kinds:
            return kinds[value]
    if "token_embd.weight" in tensors:
        return ""
    return next(
        (kind for kind, pattern in BY_TENSOR.items() if any(map(pattern.fullmatch, tensors))),
        "",
    )
