"""Writes a shape as a GGUF file, with the weights that `tplaunch bench` makes up, for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tplaunch.coordinator.architectures.shapes import SHAPES, shape_tensors
from tplaunch.coordinator.gguf.weight_types import WEIGHT_TYPES
from tplaunch.coordinator.model.spec import ModelSpec
from tplaunch.launcher.config import RandomModel
from tplaunch.launcher.errors import UsageError
from tplaunch.launcher.output_path import check_output_path, writing
from tplaunch.worker.weights.random_weights import RandomWeights

if TYPE_CHECKING:
    import gguf


def write_gguf(model: RandomModel, path: Path) -> None:
    """Tensor by tensor. The file has no tokenizer: prompts are given as ids. Raises UsageError, RunError."""
    import gguf  # takes long to import

    check_output_path("--write-gguf", path)
    if model.weight_type not in gguf.GGMLQuantizationType.__members__:
        raise UsageError(f"--type {model.weight_type.lower()}: the gguf package is too old to write it")
    tensors = shape_tensors(SHAPES[model.shape], model.weight_type)
    weights = RandomWeights(tensors.values())
    with writing("--write-gguf", path):
        writer = gguf.GGUFWriter(path, SHAPES[model.shape].spec.architecture)
        if SHAPES[model.shape].metadata:
            add_described(writer, SHAPES[model.shape].metadata)
        else:
            add_metadata(writer, SHAPES[model.shape].spec)
        writer.add_name(model.name)
        writer.add_tokenizer_model("no_vocab")  # llama.cpp then asks the metadata for the vocabulary's size
        writer.add_vocab_size(SHAPES[model.shape].spec.vocabulary_size)
        for tensor in tensors.values():
            kind = gguf.GGMLQuantizationType[tensor.type]
            dtype = np.dtype({"F32": np.float32, "F16": np.float16}.get(tensor.type, np.uint8))
            row_bytes = WEIGHT_TYPES[tensor.type].row_bytes(tensor.shape[-1])
            shape = tensor.shape if dtype != np.uint8 else (*tensor.shape[:-1], row_bytes)
            writer.add_tensor_info(tensor.name, shape, dtype, tensor.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors.values():
            writer.write_tensor_data(np.ascontiguousarray(weights.rows(tensor)))
        writer.close()


def add_described(writer: gguf.GGUFWriter, metadata: Mapping[str, Any]) -> None:
    """Numbers and lists of them by their keys; the architecture's name is the writer's."""
    for key, value in metadata.items():
        if isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)


def add_metadata(writer: gguf.GGUFWriter, spec: ModelSpec) -> None:
    """The keys from which coordinator/architectures/ makes the spec again. All layers must be alike."""
    import gguf

    writer.add_context_length(spec.context_length)
    writer.add_embedding_length(spec.embedding_length)
    writer.add_block_count(spec.num_layers)
    attention, rope = spec.attentions[0], spec.ropes[0]
    if spec.experts:
        experts = spec.experts[0]
        writer.add_feed_forward_length(experts.length)
        writer.add_expert_feed_forward_length(experts.length)
        writer.add_expert_count(experts.count)
        writer.add_expert_used_count(experts.used)
        writer.add_expert_weights_norm(experts.normalised)
        writer.add_expert_weights_scale(experts.scale)
    else:
        lengths = [feed_forward.length for feed_forward in spec.feed_forwards]
        writer.add_feed_forward_length(lengths if len(set(lengths)) > 1 else lengths[0])
    writer.add_head_count(attention.num_heads)
    writer.add_head_count_kv(attention.num_kv_heads)
    writer.add_key_length(attention.key_length)
    writer.add_value_length(attention.value_length)
    writer.add_layer_norm_rms_eps(spec.norm.epsilon)
    writer.add_rope_dimension_count(rope.dimension)
    writer.add_rope_freq_base(rope.base)
    if rope.scale != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(1 / rope.scale)
