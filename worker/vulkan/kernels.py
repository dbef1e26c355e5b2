"""What each kernel is told, by push constants: the other side of `struct Push` in shaders/*.slang.

A test compares the two, member by member.
"""

from __future__ import annotations

from ctypes import Structure, c_float, c_uint32, c_uint64

from coordinator.kv_types import KV_TYPES
from worker.formats import FORMATS
from worker.step_buffer import ATTENTION_VECTORS

Address = c_uint64
VECTOR_COUNTS = (1, 3, ATTENTION_VECTORS)  # that attention is compiled for; fewer are for a single row
WIDE_KV_TYPES = ("f16", "q8_0")  # that attention can load by 64 bits


class SumNormPush(Structure):
    _fields_ = [
        ("step", Address),
        ("source", Address),
        ("partials", Address),
        ("weight", Address),
        ("hidden", Address),
        ("output", Address),
        ("num_partials", c_uint32),
        ("slot_stride", c_uint32),
        ("row_stride", c_uint32),
        ("logit_rows", c_uint32),
        ("only_logit_rows", c_uint32),
        ("inverse_width", c_float),
        ("epsilon", c_float),
    ]


class MatMulPush(Structure):
    _fields_ = [
        ("step", Address),
        ("quants", Address),
        ("scales", Address),
        ("input", Address),
        ("output", Address),
        ("bias", Address),
        ("input_stride", c_uint32),
        ("output_stride", c_uint32),
        ("matrix_rows", c_uint32),
        ("halves", c_uint32),
        ("count_word", c_uint32),
        ("has_bias", c_uint32),
    ]


class RopeCachePush(Structure):
    _fields_ = [
        ("step", Address),
        ("rope", Address),
        ("query", Address),
        ("key", Address),
        ("value", Address),
        ("key_cache", Address),
        ("key_scales", Address),
        ("value_cache", Address),
        ("value_scales", Address),
        ("positions", c_uint32),
        ("table_starts", c_uint32),
        ("tables", c_uint32),
        ("block_length", c_uint32),
        ("num_heads", c_uint32),
        ("num_kv_heads", c_uint32),
        ("key_length", c_uint32),
        ("value_length", c_uint32),
        ("rope_dimension", c_uint32),
        ("interleaved", c_uint32),
    ]


class AttentionPush(Structure):
    _fields_ = [
        ("step", Address),
        ("query", Address),
        ("key_cache", Address),
        ("key_scales", Address),
        ("value_cache", Address),
        ("value_scales", Address),
        ("sums", Address),
        ("scales", Address),
        ("positions", c_uint32),
        ("table_starts", c_uint32),
        ("tables", c_uint32),
        ("block_length", c_uint32),
        ("num_heads", c_uint32),
        ("num_kv_heads", c_uint32),
        ("first_head", c_uint32),
        ("heads_per_kv_head", c_uint32),
        ("key_quads", c_uint32),
        ("value_quads", c_uint32),
        ("scale", c_float),
    ]


class AttentionCombinePush(Structure):
    _fields_ = [
        ("step", Address),
        ("sums", Address),
        ("scales", Address),
        ("output", Address),
        ("num_heads", c_uint32),
        ("value_quads", c_uint32),
        ("output_stride", c_uint32),
    ]


class GatedActivationPush(Structure):
    _fields_ = [
        ("step", Address),
        ("gate", Address),
        ("up", Address),
        ("output", Address),
        ("columns", c_uint32),
        ("output_stride", c_uint32),
    ]


KERNELS: dict[str, type[Structure]] = {
    "sum_norm": SumNormPush,
    **{
        f"{kind}_{name.lower()}{variant}": MatMulPush
        for kind in ("matvec", "matmul")
        for name in FORMATS
        for variant in ("", "_wide")
    },
    **{f"rope_cache_{kv_type}": RopeCachePush for kv_type in KV_TYPES},
    **{
        f"attention_{kv_type}_{vectors}{variant}": AttentionPush
        for kv_type in KV_TYPES
        for vectors in VECTOR_COUNTS
        for variant in (("", "_wide") if kv_type in WIDE_KV_TYPES else ("",))
    },
    "attention_combine": AttentionCombinePush,
    "gated_activation": GatedActivationPush,
}
