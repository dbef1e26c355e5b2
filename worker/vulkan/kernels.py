"""What each kernel is told, by push constants: the other side of `struct Push` in shaders/*.slang.

A test compares the two, member by member.
"""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32, c_uint32, c_uint64

from coordinator.kv_types import KV_TYPES
from worker.formats import FORMATS
from worker.vulkan.recurrent_kernels import RECURRENT_KERNELS
from worker.vulkan.variants import FAMILIES

Address = c_uint64
MATRIX_SIZES = (16, 8)  # of the cooperative matrices, square ones, that there are kernels for, the best first


class SumNormPush(Structure):
    _fields_ = [
        ("step", Address),
        ("source", Address),
        ("addends", Address),
        ("weight", Address),
        ("bias", Address),
        ("hidden", Address),
        ("output", Address),
        ("num_addends", c_uint32),
        ("slot_stride", c_uint32),
        ("row_stride", c_uint32),
        ("logit_rows", c_uint32),
        ("only_logit_rows", c_uint32),
        ("has_source", c_uint32),
        ("has_bias", c_uint32),
        ("stores_hidden", c_uint32),
        ("norm", c_uint32),
        ("width", c_uint32),
        ("inverse_width", c_float),
        ("epsilon", c_float),
    ]


class SumSlicePush(Structure):
    _fields_ = [
        ("step", Address),
        ("partials", Address),
        ("num_partials", c_uint32),
        ("slot_stride", c_uint32),
        ("row_stride", c_uint32),
        ("rank", c_uint32),
    ]


class QuantizePush(Structure):
    _fields_ = [
        ("step", Address),
        ("input", Address),
        ("output", Address),
        ("scales", Address),
        ("input_stride", c_uint32),
        ("output_stride", c_uint32),
        ("tiles", c_uint32),
        ("count_word", c_uint32),
    ]


class MatMulPush(Structure):
    _fields_ = [
        ("step", Address),
        ("quants", Address),
        ("highs", Address),
        ("scales", Address),
        ("words", Address),
        ("codebook", Address),
        ("input", Address),
        ("input_scales", Address),
        ("output", Address),
        ("bias", Address),
        ("input_stride", c_uint32),
        ("output_stride", c_uint32),
        ("columns", c_uint32),
        ("tiles", c_uint32),
        ("count_word", c_uint32),
        ("has_bias", c_uint32),
        ("activation", c_uint32),
        ("gated", c_uint32),
        ("accumulates", c_uint32),
        ("scale", c_float),
        ("softcap", c_float),
    ]


class ClampPush(Structure):
    _fields_ = [
        ("step", Address),
        ("rows", Address),
        ("quads", c_uint32),
        ("row_stride", c_uint32),
        ("limit", c_float),
    ]


class HeadSumsPush(Structure):
    _fields_ = [
        ("step", Address),
        ("qkv", Address),
        ("sums", Address),
        ("num_heads", c_uint32),
        ("num_kv_heads", c_uint32),
        ("head_quads", c_uint32),
        ("query_stride", c_uint32),
        ("row_stride", c_uint32),
        ("skips_first_key", c_uint32),
    ]


class HeadNormPush(Structure):
    _fields_ = [
        ("step", Address),
        ("qkv", Address),
        ("query_weight", Address),
        ("key_weight", Address),
        ("query_bias", Address),
        ("key_bias", Address),
        ("sums", Address),
        ("num_heads", c_uint32),
        ("num_kv_heads", c_uint32),
        ("head_quads", c_uint32),
        ("query_stride", c_uint32),
        ("row_stride", c_uint32),
        ("weight_stride", c_uint32),
        ("num_sums", c_uint32),
        ("sums_stride", c_uint32),
        ("is_layer_norm", c_uint32),
        ("has_weight", c_uint32),
        ("has_bias", c_uint32),
        ("query_inverse", c_float),
        ("key_inverse", c_float),
        ("epsilon", c_float),
    ]


class RopeRowsPush(Structure):
    _fields_ = [
        ("step", Address),
        ("rope", Address),
        ("qkv", Address),
        ("num_heads", c_uint32),
        ("num_kv_heads", c_uint32),
        ("key_length", c_uint32),
        ("query_stride", c_uint32),
        ("qkv_stride", c_uint32),
        ("rope_stride", c_uint32),
        ("rope_offset", c_uint32),
        ("rope_dimension", c_uint32),
        ("rope_start", c_uint32),
        ("interleaved", c_uint32),
    ]


class RopeCachePush(Structure):
    _fields_ = [
        ("step", Address),
        ("rope", Address),
        ("qkv", Address),
        ("query", Address),
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
        ("query_stride", c_uint32),
        ("qkv_stride", c_uint32),
        ("rope_stride", c_uint32),
        ("rope_offset", c_uint32),
        ("rope_dimension", c_uint32),
        ("rope_start", c_uint32),
        ("interleaved", c_uint32),
        ("temperature", c_uint32),
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
        ("value_stride", c_uint32),
        ("scale", c_float),
        ("window", c_int32),
        ("softcap", c_float),
        ("alibi", c_float),
        ("alibi_heads", c_uint32),
    ]


class AttentionCombinePush(Structure):
    _fields_ = [
        ("step", Address),
        ("sums", Address),
        ("scales", Address),
        ("output", Address),
        ("sinks", Address),
        ("gates", Address),
        ("num_heads", c_uint32),
        ("value_quads", c_uint32),
        ("output_stride", c_uint32),
        ("has_sinks", c_uint32),
        ("gate_stride", c_uint32),
        ("gate_row_stride", c_uint32),
    ]


class HeadProductsPush(Structure):
    _fields_ = [
        ("step", Address),
        ("quants", Address),
        ("highs", Address),
        ("scales", Address),
        ("words", Address),
        ("codebook", Address),
        ("input", Address),
        ("output", Address),
        ("num_heads", c_uint32),
        ("columns", c_uint32),
        ("tiles", c_uint32),
        ("input_stride", c_uint32),
        ("input_head_stride", c_uint32),
        ("output_stride", c_uint32),
        ("output_head_stride", c_uint32),
    ]


class CopyHeadsPush(Structure):
    _fields_ = [
        ("step", Address),
        ("input", Address),
        ("output", Address),
        ("num_heads", c_uint32),
        ("length", c_uint32),
        ("input_stride", c_uint32),
        ("input_head_stride", c_uint32),
        ("output_stride", c_uint32),
        ("output_head_stride", c_uint32),
    ]


class ActivatePush(Structure):
    _fields_ = [
        ("step", Address),
        ("gate_up", Address),
        ("divisors", Address),
        ("output", Address),
        ("columns", c_uint32),
        ("input_stride", c_uint32),
        ("output_stride", c_uint32),
        ("activation", c_uint32),
        ("gated", c_uint32),
        ("has_divisors", c_uint32),
    ]


PUSHES = {"matvec": MatMulPush, "matmul": MatMulPush, "attention": AttentionPush}
KERNELS: dict[str, type[Structure]] = {
    "sum_norm": SumNormPush,
    "quantize_q8": QuantizePush,
    "quantize_f16": QuantizePush,
    "sum_norm_64": SumNormPush,
    "sum_slice": SumSlicePush,
    "clamp_rows": ClampPush,
    "head_sums": HeadSumsPush,
    "head_norm": HeadNormPush,
    "rope_rows": RopeRowsPush,
    **{
        family + variant.suffix: PUSHES[family.split("_")[0]]
        for family, variants in FAMILIES.items()
        for variant in variants
    },
    **{
        f"matmul_{name.lower()}_coop{size}": MatMulPush
        for name, weight_format in FORMATS.items()
        for size in MATRIX_SIZES
        if weight_format.fits_float16
    },
    **{f"rope_cache_{kv_type}": RopeCachePush for kv_type in KV_TYPES},
    "attention_combine": AttentionCombinePush,
    **{f"head_products_{name.lower()}": HeadProductsPush for name in FORMATS},
    "copy_heads": CopyHeadsPush,
    "activate": ActivatePush,
    **RECURRENT_KERNELS,
}
